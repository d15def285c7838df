"""A lack of memory, disk or time passes: the release is tried again with backoff. Only its own fault condemns it."""

import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewright.monitor import MonitoringPlan
from edgewright.package import Bundle
from edgewright.release import publish
from edgewright_runtime.backends.onnx import OnnxBackend
from edgewright_runtime.device import Device, Settings
from edgewright_runtime.errors import (
    BackendUnavailableError,
    DamagedError,
    EdgeRuntimeError,
    IntegrityError,
    ShortageError,
    UnsuitableError,
)
from edgewright_runtime.shortage import is_fault, is_shortage
from edgewright_runtime.update import golden
from edgewright_runtime.update.golden import FAULTY, check_bundle, check_bundle_in_child
from edgewright_runtime.update.installation import Installation
from edgewright_runtime.update.updater import Updater

EASY = MonitoringPlan(max_latency_p95_ms=10_000, max_memory_mb=10_000)
NAME = "churn.edge_device.stable.1"


@pytest.fixture
def repository(tmp_path: Path, table_bundle: Bundle) -> str:
    publish(table_bundle, str(tmp_path / "r"), "stable", monitoring=EASY)
    return str(tmp_path / "r")


@pytest.mark.parametrize("kilobytes", [30_000, 100_000, 140_000, 156_000, 164_000, 188_000, 192_000])
def test_child_that_lacks_memory_never_says_that_the_bundle_is_at_fault(
    table_bundle: Bundle, image_bundle: Bundle, kilobytes: int
) -> None:
    for bundle in (table_bundle, image_bundle):
        check = [sys.executable, "-m", "edgewright_runtime", "check", str(bundle.artifact.path)]
        command = ["sh", "-c", f'ulimit -v {kilobytes}; exec "$@"', "sh", *check]  # no hook of ours runs before it
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode != FAULTY
        if done.returncode > 0:  # a crash for want of memory is one like another: nothing tells the two apart
            assert isinstance(golden._judged(done.returncode, done.stderr.decode()), (ShortageError, EdgeRuntimeError))
            assert not isinstance(golden._judged(done.returncode, done.stderr.decode()), IntegrityError)


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Puts this process's interpreter under a limit of ``ulimit`` from now on; None: under none."""
    real = sys.executable

    def apply(option: str | None) -> None:
        limit = "" if option is None else f"ulimit {option}; "
        child = tmp_path / "python"
        child.write_text(f'#!/bin/sh\n{limit}exec {real} "$@"\n')
        child.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(child))

    return apply


@pytest.mark.parametrize("option", ["-v 40000", "-v 80000", "-s 16", "-s 64", "-d 50000", "-n 4"])
def test_release_that_found_too_little_is_tried_again_with_backoff_and_taken(
    repository: str, tmp_path: Path, short: Callable[[str | None], None], option: str
) -> None:
    now = [1e9]
    updater = Updater(repository, "stable", tmp_path / "d", clock=lambda: now[0])
    short(option)
    with pytest.raises(ShortageError, match="could not be tried"):
        updater.update()
    short(None)

    assert Installation(tmp_path / "d").refusals() == {}
    with pytest.raises(ShortageError, match=f"release {NAME} could not be tried .* tried again later"):
        updater.update()
    now[0] += 61
    assert updater.update().status == "installed"
    assert not list((tmp_path / "d" / "postponed").iterdir())


@pytest.mark.parametrize("option", ["-s 128", "-n 5", "-n 6", "-n 7", "-n 16", "-f 0", "-l 0"])
def test_limit_that_some_models_can_do_with_condemns_none(
    repository: str, tmp_path: Path, short: Callable[[str | None], None], option: str
) -> None:
    short(option)
    with suppress(ShortageError):
        Updater(repository, "stable", tmp_path / "d").update()
    assert Installation(tmp_path / "d").refusals() == {}


def test_crash_on_a_small_stack_says_nothing_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    crash = (-signal.SIGSEGV, golden.LOADING)
    assert isinstance(golden._judged(*crash), IntegrityError)
    monkeypatch.setattr(golden.resource, "getrlimit", lambda _: (256 << 10, resource.RLIM_INFINITY))
    assert isinstance(golden._judged(*crash), ShortageError)


def test_waits_double_and_end_at_six_hours(tmp_path: Path) -> None:
    installation, waits, now = Installation(tmp_path / "d"), [], 1e9
    for _ in range(12):
        installation.postpone(NAME, "out of memory", now)
        waits.append(json.loads((tmp_path / "d" / "postponed" / NAME).read_bytes())["until_s"] - now)
        now += waits[-1]
    assert waits[:4] == [60, 120, 240, 480]
    assert waits[-1] == max(waits) == 6 * 3600


def test_who_asks_by_hand_does_not_wait(repository: str, tmp_path: Path) -> None:
    Installation(tmp_path / "d").postpone(NAME, "out of memory", time.time())
    command = [sys.executable, "-m", "edgewright_runtime", "install", repository, "--root", str(tmp_path / "d")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["status"] == "installed"


@pytest.mark.parametrize(
    "note", [b"\xff", b"{}", b"[1]", b'{"attempts": 1, "until_s": 1e300, "free_bytes": 0, "reason": ""}']
)
def test_damaged_note_or_a_clock_that_jumped_does_not_keep_a_release_away(
    repository: str, tmp_path: Path, note: bytes
) -> None:
    installation = Installation(tmp_path / "d")
    installation.postpone(NAME, "out of memory", 1e9)
    (tmp_path / "d" / "postponed" / NAME).write_bytes(note)
    assert installation.postponed(NAME, 1e9) is None
    installation.postpone(NAME, "out of memory", 2e9)
    assert installation.postponed(NAME, 1e9) is None, "the clock was far ahead then"
    assert Updater(repository, "stable", tmp_path / "d", clock=lambda: 1e9).update().status == "installed"


def test_room_on_the_disk_ends_the_wait_for_room_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installation, free = Installation(tmp_path / "d"), [1000]

    class Usage:
        @property
        def free(self) -> int:
            return free[0]

    monkeypatch.setattr("edgewright_runtime.update.installation.shutil.disk_usage", lambda _: Usage())
    installation.postpone("a.1", "No space left on device", 0.0)
    installation.postpone("b.1", "out of memory", 0.0)
    assert installation.postponed("a.1", 1.0) is not None
    free[0] = 1 << 30
    assert installation.postponed("a.1", 1.0) is None
    assert installation.postponed("b.1", 1.0) is not None


def _child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (tmp_path / "python").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))


@pytest.mark.parametrize(
    ("script", "condemned"),
    [
        ("echo 'error: golden vectors: differs' >&2; exit 3", True),
        ("echo 'loading the model' >&2; kill -SEGV $$", True),
        ("echo 'loading the model' >&2; kill -ABRT $$", True),
        ("echo 'loading the model' >&2; kill -ILL $$", True),
        ("echo 'loading the model' >&2; kill -FPE $$", True),
        ("kill -SEGV $$", False),
        ("kill -ILL $$", False),
        ("echo 'loading the model' >&2; kill -QUIT $$", False),
        ("kill -USR1 $$", False),
        ("kill -ALRM $$", False),
        ("kill -PIPE $$", False),
        ("kill -STOP $$", False),
        ("echo 'loading the model' >&2; echo 'terminate called after std::bad_alloc' >&2; kill -ABRT $$", False),
        ("kill -KILL $$", False),
        ("kill -XCPU $$", False),
        ("exit 1", False),
        ("exit 130", False),
        ("echo 'error: x.onnx: 6 bytes, the manifest says 7' >&2; exit 1", False),
        ("sleep 30", False),
        ("while :; do :; done", True),
    ],
)
def test_only_its_own_fault_condemns_a_release(
    repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, condemned: bool
) -> None:
    real = check_bundle_in_child
    monkeypatch.setattr(golden, "_BUSY_SHARE", 0.05)  # other tests may have most of the processors
    checked = "edgewright_runtime.update.updater.check_bundle_in_child"
    monkeypatch.setattr(checked, lambda folder: real(folder, timeout_s=1.5))
    _child(tmp_path, monkeypatch, script)

    with pytest.raises(EdgeRuntimeError):
        Updater(repository, "stable", tmp_path / "d").update()

    assert (NAME in Installation(tmp_path / "d").refusals()) == condemned
    assert (tmp_path / "d" / "postponed" / NAME).exists() == (not condemned)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (IntegrityError("output differs"), True),
        (UnsuitableError("too slow"), True),
        (DamagedError("a file is changed"), False),
        (BackendUnavailableError("not installed"), False),
        (ShortageError("no memory"), False),
        (IntegrityError("[ONNXRuntimeError] : 6 : Exception during initialization: std::bad_alloc"), False),
        (EdgeRuntimeError("onnxruntime: the inference failed: Failed to allocate memory for requested buffer"), False),
        (OSError(28, "No space left on device"), False),
        (MemoryError(), False),
    ],
)
def test_errors_are_told_apart(error: Exception, fault: bool) -> None:
    assert is_fault(error) == fault


def test_cause_of_an_error_counts() -> None:
    error = IntegrityError("cannot load it")
    error.__cause__ = OSError(12, "Cannot allocate memory")
    assert is_shortage(error)
    assert not is_fault(error)


def test_busy_device_is_told_from_a_slow_model(table_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock of a starved process runs on; its own does not."""
    limits = {"max_latency_ms": 5.0}
    used = [0.0]

    def rows(backend: Any, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if len(next(iter(feeds.values()))) == 1:
            time.sleep(0.01)
            used[0] += spent
        return real(backend, feeds)

    real = golden.run_rows
    predictor = golden.Predictor(table_bundle.artifact.path)
    inputs, _ = golden.load_golden(predictor.folder / predictor.manifest.golden.path)
    monkeypatch.setattr(golden, "run_rows", rows)
    monkeypatch.setattr(golden.time, "process_time", lambda: used[0])
    spent = 0.001
    with pytest.raises(ShortageError, match="the device is busy"):
        golden._check_latency(predictor, inputs, limits["max_latency_ms"])
    spent = 0.009
    with pytest.raises(UnsuitableError, match=r"one inference takes .* its budget is 5 ms"):
        golden._check_latency(predictor, inputs, limits["max_latency_ms"])


def test_files_that_are_damaged_are_no_fault_of_the_model(tmp_path: Path, table_bundle: Bundle) -> None:
    import shutil

    shutil.copytree(table_bundle.artifact.path, tmp_path / "b")
    (tmp_path / "b" / "churn.onnx").write_bytes(b"rotten")
    with pytest.raises(DamagedError):
        check_bundle(tmp_path / "b")


def test_unforeseen_error_of_a_runtime_condemns_its_model(
    table_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("node 7 is odd")

    monkeypatch.setattr(golden, "run_rows", broken)
    with pytest.raises(IntegrityError, match="RuntimeError: node 7 is odd"):
        check_bundle(table_bundle.artifact.path)


def test_device_that_lacks_memory_to_open_a_release_goes_back_and_takes_it_later(
    repository: str, tmp_path: Path, newer_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1e9]
    device = Device(Settings(tmp_path / "d", repository), clock=lambda: now[0])
    publish(newer_bundle, repository, "stable", monitoring=EASY)
    real = OnnxBackend.__init__

    def starved(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(OnnxBackend, "__init__", starved)
    ticks = [device.tick()]
    monkeypatch.setattr(OnnxBackend, "__init__", real)
    ticks += [device.tick()]
    now[0] += 61
    ticks += [device.tick()]

    assert [tick.rolled_back for tick in ticks] == ["churn.edge_device.stable.2", None, None]
    assert [tick.installed for tick in ticks[1:]] == [None, "churn.edge_device.stable.2"]
    assert "tried again later" in ticks[1].errors[0]
    assert device.predict({"tenure": 0.1, "charges": 0.1, "contract": "One year"}).model.endswith(".2")
    device.close()
