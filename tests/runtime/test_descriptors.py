"""A device that has run out of file descriptors, all but a few of 64 taken: it answers, loses nothing, and goes on
when there are some again.
"""

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgewright.monitor import MonitoringPlan
from edgewright.package import Bundle
from edgewright.release import publish
from edgewright_runtime.bundle.opening import open_bundle
from edgewright_runtime.errors import ShortageError
from edgewright_runtime.update.installation import Installation
from edgewright_runtime.update.updater import Updater
from tests.runtime.ledger import Ledger
from tests.runtime.loopback import serving

EASY = MonitoringPlan(max_latency_p95_ms=10_000, max_memory_mb=10_000)
NAME = "churn.edge_device.stable"

_SHORT_OF_DESCRIPTORS = """
import json, os, resource, sys
from pathlib import Path
from edgewright_runtime.predict.cloud import Breaker, CloudClient
from edgewright_runtime.device import Device, Settings
from edgewright_runtime.errors import EdgeRuntimeError
from edgewright_runtime.predict.hybrid import Policy
from edgewright_runtime.update.installation import Installation

root, repository, url = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held, now, found = [], [1e9], {"said": [], "releases": [], "answered": 0, "not_logged": 0}
cloud = CloudClient(url, "t", attempts=1, breaker=Breaker(failures=10**9))
settings = Settings(Path(root), repository, cloud=cloud, policy=Policy(threshold=0.0), poll_s=0)

def leave(free):
    while held:
        os.close(held.pop())
    if free is None:
        return
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        for descriptor in held[len(held) - free:]:
            os.close(descriptor)
        del held[len(held) - free:]

def answer(device):
    row = {"tenure": found["answered"] / 100, "charges": 0.1, "contract": "One year"}
    assert device.predict(row).source == "edge"
    found["answered"] += 1

def work(device, free):
    leave(free)
    now[0] += 1e5  # what was put off for want of descriptors is due again
    answer(device)
    device.flush()
    tick = device.tick()
    found["said"] += tick.errors
    found["releases"].append(Installation(Path(root)).current_name())

def begin(free):
    leave(free)
    try:
        device = Device(settings, clock=lambda: now[0])
    except (EdgeRuntimeError, OSError) as e:
        found["said"].append(str(e))
    else:
        answer(device)
        found["not_logged"] += device._active.answers.not_logged
        device.close()
    found["releases"].append(Installation(Path(root)).current_name())
"""
_BEGIN = """
leave(None)
device = Device(settings, clock=lambda: now[0])
"""
_GOES_ON = """
for free in range(12):
    work(device, free)
for _ in range(2):
    work(device, None)
device.close()
print(json.dumps({**found, "refused": Installation(Path(root)).refusals(), "counters": {
    "lost": device.outbox.lost, "not_logged": device.not_logged + device._active.answers.not_logged}}))
"""


@pytest.fixture
def repository(tmp_path: Path, table_bundle: Bundle, newer_bundle: Bundle) -> str:
    """Two releases, of which the device has the first."""
    publish(table_bundle, str(tmp_path / "r"), "stable", monitoring=EASY)
    Updater(str(tmp_path / "r"), "stable", tmp_path / "d").update()
    publish(newer_bundle, str(tmp_path / "r"), "stable", monitoring=EASY)
    return str(tmp_path / "r")


def run_short_of_descriptors(tmp_path: Path, repository: str, ledger: Ledger, script: str) -> dict[str, Any]:
    with serving(ledger) as cloud:
        command = [sys.executable, "-c", _SHORT_OF_DESCRIPTORS + script + _GOES_ON]
        arguments = [str(tmp_path / "d"), repository, cloud.url]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_device_without_descriptors_answers_and_takes_up_its_work_when_there_are_some(
    tmp_path: Path, repository: str
) -> None:
    ledger = Ledger(NAME)
    found = run_short_of_descriptors(tmp_path, repository, ledger, _BEGIN)

    assert set(found["releases"]) == {f"{NAME}.1", f"{NAME}.2"}
    assert found["releases"] == sorted(found["releases"]), "never back"
    assert found["refused"] == {}
    assert all("\n" not in said and ("open files" in said or "open" in said) for said in found["said"]), found["said"]
    assert any("Too many open files" in said for said in found["said"])
    assert found["counters"] == {"lost": 0, "not_logged": 0}
    assert (len(ledger.of("prediction")), ledger.repeated) == (found["answered"], 0)
    assert sum(window["predictions"] for window in ledger.of("telemetry")) == found["answered"]


def test_release_that_cannot_be_opened_for_want_of_descriptors_is_not_taken_for_damaged(
    tmp_path: Path, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation = Installation(tmp_path / "d")
    bundle = installation.current().bundle
    before = sorted(path.name for path in (tmp_path / "d/bundles").iterdir())

    def refused(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("edgewright_runtime.update.installation.read_plain", refused)
        with pytest.raises(ShortageError, match="Too many open files"):
            installation.installed(f"{NAME}.1")
        with pytest.raises(ShortageError, match="Too many open files"):
            Updater(repository, "stable", tmp_path / "d").update(repair=True)
        patch.setattr("edgewright_runtime.bundle.opening.read_plain", refused)
        with pytest.raises(ShortageError, match="Too many open files"):
            open_bundle(bundle)
    with monkeypatch.context() as patch:
        patch.setattr("edgewright_runtime.bundle.opening.file_digest", refused)
        with pytest.raises(ShortageError, match="Too many open files"):
            open_bundle(bundle)

    assert installation.current_name() == f"{NAME}.1"
    assert sorted(path.name for path in (tmp_path / "d/bundles").iterdir()) == before


def test_device_that_starts_without_descriptors_always_has_a_release_and_takes_the_newest_again(
    tmp_path: Path, repository: str
) -> None:
    ledger = Ledger(NAME)
    Updater(repository, "stable", tmp_path / "d").update()
    Installation(tmp_path / "d").end_trial()
    found = run_short_of_descriptors(tmp_path, repository, ledger, "for free in range(16):\n    begin(free)\n" + _BEGIN)

    assert set(found["releases"]) <= {f"{NAME}.1", f"{NAME}.2"}
    assert found["releases"][-1] == f"{NAME}.2"
    assert found["refused"] == {}
    assert len(ledger.of("prediction")) + found["not_logged"] == found["answered"]


def test_start_that_fails_for_want_of_descriptors_counts_for_no_trial(tmp_path: Path, repository: str) -> None:
    Updater(repository, "stable", tmp_path / "d").update()
    starts = "for _ in range(8):\n    begin(1)\n" + _BEGIN
    found = run_short_of_descriptors(tmp_path, repository, Ledger(NAME), starts)

    assert found["refused"] == {}
    assert set(found["releases"]) == {f"{NAME}.2"}
