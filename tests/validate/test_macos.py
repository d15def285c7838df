"""What differs on macOS. It is not here: the name of the system is patched, what is read is real."""

import platform
import resource
import signal
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgewright.child import die_with_parent, run_in_child
from edgewright.validate.machine import machine
from edgewright.validate.targets import cgroup
from edgewright.validate.targets.local import LocalTarget
from edgewright_runtime.health import process_memory


@pytest.fixture
def darwin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")


@pytest.mark.skipif(sys.platform != "linux", reason="compares with /proc")
def test_ps_says_what_proc_says(monkeypatch: pytest.MonkeyPatch) -> None:
    by_proc = process_memory.resident_mb()
    assert by_proc is not None
    monkeypatch.setattr(sys, "platform", "darwin")
    by_ps = process_memory.resident_mb()
    assert by_ps is not None
    assert abs(by_ps - by_proc) < 0.1 * by_proc


def test_peak_is_in_bytes_there(darwin: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=300 << 20))
    assert process_memory.peak_memory_mb() == 300


def test_machine_without_ps_knows_no_resident_memory(
    darwin: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert process_memory.resident_mb() is None


def test_no_memory_bound_is_set_nor_claimed(darwin: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "delegated", lambda: None)
    before = resource.getrlimit(resource.RLIMIT_AS)
    process_memory.limit_memory(1)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert "64 MB not enforced" in LocalTarget(memory_mb=64).name


def test_no_control_groups_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_MOUNTS", "_GROUPS"):
        monkeypatch.setattr(cgroup, name, Path("/nowhere") / name)
    assert cgroup.delegated.__wrapped__() is None


def test_child_runs_without_linuxs_own_calls(darwin: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", None)  # prctl is not called: there is none
    die_with_parent(signal.SIGKILL)
    assert run_in_child(partial(platform.machine), returns=str, what="asking").value


def test_figures_hold_for_one_version_of_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "macOS" not in machine.__wrapped__()
    monkeypatch.setattr(platform, "mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    assert machine.__wrapped__().endswith(" cores, macOS 15.1")
