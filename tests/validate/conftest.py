"""Small real models: a linear classifier with two planted near-ties, as ONNX files made by hand."""

import getpass
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgewright.artifact import Dataset, Exported, Format, ImportedModel, ModelTask, Precision
from edgewright.profile import SshConnection
from edgewright.store import Store
from edgewright.validate import core_ml_units
from edgewright.validate.targets import arm_system, device_image
from edgewright.validate.targets.emulated_device import booted
from edgewright.validate.targets.ssh import SshTarget
from edgewright_runtime.bundle.manifest import TensorSpec
from tests.bundles import image_bundle, newer_bundle, table_bundle

__all__ = ["image_bundle", "newer_bundle", "table_bundle"]

FEATURES, CLASSES, ROWS = 16, 3, 300
LABELS = ("low", "middle", "high")


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEWRIGHT_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def weights() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(FEATURES, CLASSES))


def linear_onnx(path: Path, weights: np.ndarray, *, repeats: int = 1, batch: int | str = "N") -> Path:
    """``softmax(x W)``; ``repeats`` > 1 multiplies by a large identity that often, which only costs time."""
    width = 256
    nodes, initializers = [], [numpy_helper.from_array(weights.astype(np.float32), "w")]
    last = "x"
    if repeats > 1:
        spread = np.eye(FEATURES, width, dtype=np.float32)
        initializers += [numpy_helper.from_array(spread, "spread"), numpy_helper.from_array(spread.T.copy(), "gather")]
        nodes.append(helper.make_node("MatMul", ["x", "spread"], ["wide0"]))
        for i in range(repeats):
            axis = np.random.default_rng(i).normal(size=(width, 1))
            # A reflection: dense, orthogonal, and its own inverse.
            identity = (np.eye(width) - 2 * axis @ axis.T / (axis.T @ axis)).astype(np.float32)
            initializers += [
                numpy_helper.from_array(identity, f"q{i}"),
                numpy_helper.from_array(np.ascontiguousarray(identity.T), f"t{i}"),
            ]
            nodes.append(helper.make_node("MatMul", [f"wide{i}", f"q{i}"], [f"turned{i}"]))
            nodes.append(helper.make_node("MatMul", [f"turned{i}", f"t{i}"], [f"wide{i + 1}"]))
        nodes.append(helper.make_node("MatMul", [f"wide{repeats}", "gather"], ["narrow"]))
        last = "narrow"
    nodes += [
        helper.make_node("MatMul", [last, "w"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, FEATURES])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, CLASSES])],
        initializers,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


RUNTIMES = {
    Format.ONNX: ("onnxruntime", "1.18.0"),
    Format.TFLITE: ("litert", "1.18.0"),
    Format.MLPACKAGE: ("coreml", "16.0"),
}


def exported(path: Path, form: Format = Format.ONNX) -> Exported:
    runtime, floor = RUNTIMES[form]
    rows = 1 if form is Format.MLPACKAGE else -1
    return Exported(
        artifact=Store().put(path, form),
        precision=Precision.FLOAT32,
        inputs=(TensorSpec("x", (rows, FEATURES), "float32"),),
        outputs=(TensorSpec("scores", (rows, CLASSES), "float32"),),
        runtime=runtime,
        runtime_floor=floor,
    )


@pytest.fixture
def imported(tmp_path: Path, weights: np.ndarray) -> ImportedModel:
    artifact = Store().put(linear_onnx(tmp_path / "source.onnx", weights), Format.ONNX)
    return ImportedModel(
        name="linear",
        source=artifact,
        onnx=artifact,
        graph=None,
        inputs=(TensorSpec("x", (-1, FEATURES), "float32"),),
        outputs=(TensorSpec("scores", (-1, CLASSES), "float32"),),
        task=ModelTask.CLASSIFICATION,
        labels=LABELS,
    )


@pytest.fixture
def dataset(tmp_path: Path, weights: np.ndarray) -> Dataset:
    """Truth is the source's answer on 90% of rows, another class on the rest."""
    chance = np.random.default_rng(2)
    x = chance.normal(size=(ROWS, FEATURES)).astype(np.float32)
    scores = softmax(x.astype(np.float64) @ weights)
    predicted = scores.argmax(axis=1)
    truth = np.where(chance.random(ROWS) < 0.9, predicted, (predicted + 1) % CLASSES)
    return write_dataset(tmp_path, x, truth, scores, predicted)


def write_dataset(
    folder: Path, x: np.ndarray, truth: np.ndarray, scores: np.ndarray, predicted: np.ndarray | None
) -> Dataset:
    arrays = {"test.x.x": x, "test.y": truth, "test.reference.scores": scores}
    if predicted is not None:
        arrays["test.predicted"] = predicted
    np.savez(folder / "data.npz", **arrays)
    artifact = Store().put(folder / "data.npz", Format.DATASET)
    return Dataset(artifact=artifact, calibration_rows=0, validation_rows=0, test_rows=len(x))


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., Exported]:
    """An ONNX file of the given weights, in the store."""

    def made(weights: np.ndarray, name: str = "model.onnx", **options: int) -> Exported:
        return exported(linear_onnx(tmp_path / name, weights, **options))

    return made


SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def keygen(path: Path) -> None:
    subprocess.run([str(shutil.which("ssh-keygen")), "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshConnection]:
    """A real sshd on loopback stands for the board."""
    if SSHD is None or shutil.which("ssh") is None or shutil.which("ps") is None:
        pytest.skip("no sshd, ssh or ps here (Debian: apt-get install openssh-server openssh-client procps)")
    folder = tmp_path_factory.mktemp("board")
    for name in ("host", "user"):
        keygen(folder / name)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd's privilege separation, where no service made it
    port = free_port()
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\nPidFile {folder / 'pid'}\n"
        f"AuthorizedKeysFile {folder / 'user.pub'}\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        "PermitRootLogin yes\n"
    )
    server = subprocess.Popen([str(SSHD), "-D", "-e", "-f", str(folder / "sshd_config")], stderr=subprocess.DEVNULL)
    try:
        _await(port)
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
        yield SshConnection(
            host="127.0.0.1",
            port=port,
            user=getpass.getuser(),
            key=folder / "user",
            known_hosts=folder / "known_hosts",
            folder=str(folder / "work"),
            python=sys.executable,
        )
    finally:
        server.terminate()
        server.wait()


def _await(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.skip("sshd does not start here")


ADB_STANDIN = """#!/bin/sh
# A stand-in for adb, for tests: 'shell' runs here, 'push' copies here.
[ "$1" = -s ] && shift 2
echo "$@" >> {log}
case "$1" in
  push) cp "$2" "$3" ;;
  shell) shift; [ "$1" = -T ] && shift; exec sh -c "$1" ;;
esac
"""


@pytest.fixture
def adb_standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for ``adb``: no phone was used."""
    command = tmp_path / "bin" / "adb"
    command.parent.mkdir()
    command.write_text(ADB_STANDIN.format(log=tmp_path / "adb.log"))
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    return command


CORE_ML_STANDIN = Path(__file__).with_name("coremltools_standin")


@pytest.fixture
def core_ml_standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for coremltools in every child's path, and a machine that says it is a Mac: no Mac was used."""
    folder = tmp_path / "standin" / "coremltools"
    shutil.copytree(CORE_ML_STANDIN, folder, ignore=shutil.ignore_patterns("__pycache__"))
    real = importlib.util.find_spec("coremltools")
    if real is None or not real.submodule_search_locations:
        pytest.skip("no coremltools here, whose file format the stand-in reads")
    (folder / "proto").symlink_to(Path(real.submodule_search_locations[0]) / "proto")
    monkeypatch.setenv("PYTHONPATH", str(folder.parent))
    monkeypatch.setattr(core_ml_units, "is_here", lambda: True)
    return folder


@pytest.fixture(scope="session")
def arm_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the emulated systems lie that all tests of a session share."""
    if reason := arm_system.missing_tools():
        pytest.skip(f"no emulated Arm: {reason}")
    return tmp_path_factory.mktemp("arm")


@pytest.fixture(scope="session")
def device(arm_home: Path) -> Iterator[SshTarget]:
    """A whole emulated arm64 machine, booted once."""
    if reason := device_image.missing_tools():
        pytest.skip(f"no emulated device: {reason}")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("EDGEWRIGHT_HOME", str(arm_home))
        with booted("cortex-a53", 320, 2) as target:
            patched.undo()
            yield target
