"""A whole arm64 machine with its own kernel, memory and disk: what only a device can show. Slow: all is emulated."""

import functools
import http.server
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgewright_runtime
from edgewright.artifact import Dataset, Exported
from edgewright.errors import ConversionError, DeviceUnreachableError, InputError
from edgewright.package import Bundle
from edgewright.profile import load_device
from edgewright.release import publish
from edgewright.validate import measure
from edgewright.validate.targets import cgroup
from edgewright.validate.targets.answers import expect_figures
from edgewright.validate.targets.choice import opened
from edgewright.validate.targets.ssh import SshTarget
from edgewright_runtime.bench.answer import ColdFigures, OutputFigures
from edgewright_runtime.bench.run import BenchModel, BenchSpec, write_arrays
from tests.validate.conftest import keygen

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
Export = Callable[..., Exported]
FEATURES = 16


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.npz"
    write_arrays(path, {"x": np.ones((3, FEATURES), np.float32)})
    return path


def hungry(path: Path, megabytes: int) -> BenchModel:
    """A small file whose inference holds two tensors of that many megabytes."""
    elements = megabytes * (1 << 18) // FEATURES
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["column", "x"], ["wide"]),
            helper.make_node("Exp", ["wide"], ["raised"]),
            helper.make_node("ReduceMean", ["raised"], ["scores"], axes=[0], keepdims=1),
        ],
        "hungry",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, FEATURES])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, FEATURES])],
        [numpy_helper.from_array(np.zeros((elements, 1), np.float32), "column")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return BenchModel(str(path), "onnx", ("x",), ("scores",))


def said(device: SshTarget, command: str, content: bytes = b"") -> str:
    done = device._call(command, "testing", 300, content)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_model_that_needs_more_than_the_device_has_does_not_fit(device: SshTarget, rows: Path, tmp_path: Path) -> None:
    spec = BenchSpec("cold", (hungry(tmp_path / "hungry.onnx", 160),), str(rows))
    with pytest.raises(
        ConversionError,
        match=r"does not fit in the \d+ MB of an emulated device \(2 x cortex-a53, 320 MB.*needed about \d+ MB",
    ):
        device.run(spec, "running", 300)
    device.run(BenchSpec("cold", (hungry(tmp_path / "small.onnx", 4),), str(rows)), "running", 300)


def test_memory_is_measured_and_time_is_not(
    device: SshTarget, dataset: Dataset, export: Export, weights: np.ndarray
) -> None:
    light, heavy = export(weights, "light.onnx"), export(weights, "heavy.onnx", repeats=16)
    found = measure(light, heavy, dataset, load_device("raspberry_pi_3b_plus"), target=device)
    assert found.candidate.latency is None
    assert found.verdict == "not measured"
    assert "means nothing" in found.not_measured[0]
    assert found.candidate.added_memory_mb is not None
    assert found.baseline.added_memory_mb is not None
    weights_mb = heavy.artifact.size_bytes / (1 << 20)
    assert found.candidate.added_memory_mb - found.baseline.added_memory_mb > 0.9 * weights_mb
    assert dict(found.environment)["machine"] == "aarch64"


def test_full_disk_is_named_and_the_next_run_finds_room(
    device: SshTarget, export: Export, weights: np.ndarray, rows: Path
) -> None:
    file = export(weights, "large.onnx", repeats=4).artifact.path  # 2 MB, not there yet
    spec = BenchSpec("outputs", (BenchModel(str(file), "onnx", ("x",), ("scores",)),), str(rows), outputs=f"{rows}.out")
    said(device, "dd if=/dev/zero of=/filler bs=1M 2>/dev/null; true")
    try:
        with pytest.raises(ConversionError, match=r"refused a file: .*No space left on device"):
            device.run(spec, "running", 300)
    finally:
        said(device, "rm /filler")
    answer = expect_figures(device.run(spec, "running", 300), OutputFigures, "running")
    assert answer.figures.rows == 3


def test_unknown_host_key_is_refused(
    device: SshTarget, export: Export, weights: np.ndarray, rows: Path, tmp_path: Path
) -> None:
    keygen(tmp_path / "other")
    trusted = tmp_path / "known_hosts"
    trusted.write_text(f"[127.0.0.1]:{device.connection.port} {(tmp_path / 'other.pub').read_text()}")
    stranger = SshTarget(device.connection.model_copy(update={"known_hosts": trusted}))
    spec = BenchSpec("cold", (BenchModel(str(export(weights).artifact.path), "onnx"),), str(rows))
    with pytest.raises(InputError, match="is not the trusted one"):
        stranger.run(spec, "running", 60)


def test_device_that_reboots_in_the_middle_resumes(
    device: SshTarget, export: Export, weights: np.ndarray, rows: Path
) -> None:
    model = BenchModel(str(export(weights, "rebooted.onnx", repeats=2).artifact.path), "onnx", ("x",), ("scores",))
    endless = BenchSpec("warm", (model,), str(rows), min_seconds=600, max_seconds=600)
    cut = threading.Thread(target=_reboot_when_busy, args=(device,))
    cut.start()
    with pytest.raises(DeviceUnreachableError):
        device.run(endless, "running", 300)
    cut.join()
    _await_boot(device)
    kept = said(device, f"ls -l {device._folder}/files")
    answer = device.run(BenchSpec("cold", (model,), str(rows)), "running", 300)
    assert expect_figures(answer, ColdFigures, "running").figures.load_ms > 0
    assert said(device, f"ls -l {device._folder}/files") == kept


def _reboot_when_busy(device: SshTarget) -> None:
    for _ in range(600):
        if (
            device._call(
                "pgrep -f edgewright_runtime.bench || ps | grep -q '[e]dgewright_runtime.bench'", "", 60
            ).returncode
            == 0
        ):
            break
        time.sleep(0.5)
    device._call("(sleep 1; reboot -f) > /dev/null 2>&1 &", "", 60)


def _await_boot(device: SshTarget) -> None:
    for _ in range(60):
        try:
            said(device, "true")
        except DeviceUnreachableError:
            time.sleep(1)
        else:
            return
    pytest.fail("the device did not come back")


def test_control_group_bounds_memory_where_the_kernel_has_them(device: SshTarget) -> None:
    """The device's kernel has version 2; the module is standard library alone, so it runs there as it is."""
    program = Path(cgroup.__file__).read_text() + _FILL
    answer = json.loads(said(device, "python3 -", program.encode()).splitlines()[-1])
    assert answer == {"small": [0, False], "large": [-9, True], "left": []}


_FILL = """
import json, subprocess, sys
below, found = delegated(), {}
for name, size in (("small", 8), ("large", 80)):
    with memory_bound(below, 40) as group:
        fill = f"open('{group}/cgroup.procs', 'w').write('0'); held = bytearray(b'x' * ({size} << 20))"
        code = subprocess.run([sys.executable, "-c", fill]).returncode
        found[name] = [code, was_out_of_memory(group)]
found["left"] = [p.name for p in below.glob("edgewright-*")]
print(json.dumps(found))
"""


def test_control_group_is_found_as_systemd_delegates_it(device: SshTarget) -> None:
    """A desktop's terminal lies below groups that are the user's own; an SSH session's scope belongs to root."""
    script = Path(__file__).with_name("delegated_groups.py")
    for file in (Path(cgroup.__file__), script):
        said(device, f"mkdir -p /tmp/groups && cat > /tmp/groups/{file.name}", file.read_bytes())
    said(device, "chmod -R a+rX /tmp/groups")
    answer = json.loads(said(device, "python3 /tmp/groups/delegated_groups.py").splitlines()[-1])
    assert answer == {"terminal": ["app.slice", -9, True], "session": None, "read-only": "None"}


def test_runtime_installs_updates_and_rolls_back(
    device: SshTarget, table_bundle: Bundle, newer_bundle: Bundle, tmp_path: Path
) -> None:
    """The device runtime's own distribution, on aarch64, from a release server, by its own commands."""
    _install_wheel(device, tmp_path)
    repository = tmp_path / "repository"
    publish(table_bundle, str(repository), "stable")
    runtime = "cd /root && python3 -m edgewright_runtime"
    with _served(repository) as port, _reachable_from(device, port):
        url = "http://127.0.0.1:8000"
        first = json.loads(said(device, f"{runtime} install {url}"))
        assert (first["status"], first["installed"]["release"]) == ("installed", "churn.edge_device.stable.1")
        assert json.loads(said(device, f"{runtime} install {url}"))["status"] == "current"
        assert json.loads(said(device, f"{runtime} check edgewright-device/current/bundle"))["status"] == "ok"
        publish(newer_bundle, str(repository), "stable")
        second = json.loads(said(device, f"{runtime} install {url}"))
        assert (second["installed"]["release"], second["installed"]["previous"]) == (
            "churn.edge_device.stable.2",
            "churn.edge_device.stable.1",
        )
    timed = json.loads(said(device, f"{runtime} bench --runs 5"))
    assert timed["runtime"].startswith("onnxruntime ")
    assert json.loads(said(device, f"{runtime} rollback"))["installed"]["release"] == "churn.edge_device.stable.1"
    assert json.loads(said(device, f"{runtime} status"))["current"]["release"] == "churn.edge_device.stable.1"


def _install_wheel(device: SshTarget, folder: Path) -> None:
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, check=True, capture_output=True, cwd=Path(edgewright_runtime.__file__).parent)
    (wheel,) = folder.glob("*.whl")
    said(device, "cat > /tmp/runtime.whl", wheel.read_bytes())
    said(device, "python3 -m zipfile -e /tmp/runtime.whl /usr/local/lib/python3.11/dist-packages")


@contextmanager
def _served(folder: Path) -> Iterator[int]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def _reachable_from(device: SshTarget, port: int) -> Iterator[None]:
    """The device sees nothing but its SSH client: a tunnel brings the server to it."""
    *command, host = device._carrier()
    tunnel = subprocess.Popen([*command, "-N", "-R", f"8000:127.0.0.1:{port}", "-o", "ExitOnForwardFailure=yes", host])
    try:
        for _ in range(60):
            if device._call("nc -z 127.0.0.1 8000 < /dev/null", "", 60).returncode == 0:
                break
            time.sleep(0.5)
        yield
    finally:
        tunnel.terminate()
        tunnel.wait()


def test_profile_may_ask_for_a_whole_device(arm_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEWRIGHT_HOME", str(arm_home))
    profile = load_device("raspberry_pi_zero_2_w").model_copy(update={"target": "emulated_device"})
    with opened(profile) as target:
        assert target.name == "an emulated device (4 x cortex-a53, 512 MB, qemu-system)"
        assert target.emulated
        assert target.own_memory
        assert isinstance(target, SshTarget)
        held = re.search(r"MemTotal:\s*(\d+)", said(target, "cat /proc/meminfo"))
        assert held is not None
        assert 400 < int(held.group(1)) / 1024 < 512
        assert said(target, "nproc").strip() == "4"
    with pytest.raises(DeviceUnreachableError):
        said(target, "true")
