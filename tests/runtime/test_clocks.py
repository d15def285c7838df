"""A device whose clock jumps, as on a board without one of its own: nothing is lost, sent twice or put off for ever."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgewright.monitor import MonitoringPlan
from edgewright.package import Bundle
from edgewright.release import publish
from edgewright_runtime.device import Device, Settings
from edgewright_runtime.errors import ShortageError
from edgewright_runtime.health.sensors import Reading
from edgewright_runtime.predict.cloud import CloudClient
from edgewright_runtime.predict.hybrid import Policy
from edgewright_runtime.update.installation import Installation
from edgewright_runtime.update.updater import Updater
from tests.runtime.ledger import Ledger
from tests.runtime.loopback import Cloud, serving

ROW = {"tenure": 0.1, "charges": 0.1, "contract": "One year"}
EASY = MonitoringPlan(max_latency_p95_ms=10_000, max_memory_mb=10_000, window_s=60)
YEAR_S, HOUR_S = 365 * 86_400.0, 3600.0
JUMPS = pytest.mark.parametrize("jump_s", [YEAR_S, -YEAR_S, HOUR_S, -HOUR_S])
NAME = "churn.edge_device.stable"


class Cool:
    def read(self) -> Reading:
        return Reading()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(NAME)


@pytest.fixture
def cloud(ledger: Ledger) -> Iterator[Cloud]:
    with serving(ledger) as found:
        yield found


@pytest.fixture
def repository(tmp_path: Path, table_bundle: Bundle) -> str:
    publish(table_bundle, str(tmp_path / "r"), "stable", monitoring=EASY)
    return str(tmp_path / "r")


@JUMPS
def test_what_waits_on_a_device_outlasts_a_jump_of_its_clock(
    tmp_path: Path, repository: str, newer_bundle: Bundle, cloud: Cloud, ledger: Ledger, jump_s: float
) -> None:
    now, steady = [1.7e9], [1e6]
    client = CloudClient(cloud.url, "t", attempts=1)
    settings = Settings(tmp_path / "d", repository, cloud=client, policy=Policy(threshold=0.0), poll_s=100)
    device = Device(settings, sensors=Cool(), clock=lambda: now[0], steady=lambda: steady[0])
    device.tick()
    for n in range(5):
        device.predict({**ROW, "tenure": n / 10})
    publish(newer_bundle, repository, "stable", monitoring=EASY)
    device.installation.postpone(f"{NAME}.2", "out of memory", now[0])

    now[0] += jump_s
    assert device.predict(ROW).source == "cache", "an answer has no age"
    early = device.tick()
    steady[0] += 61.0
    now[0] += 61.0
    device.predict(ROW)
    later = device.tick()
    steady[0] += 101.0
    now[0] += 101.0
    last = device.tick()
    device.close()

    assert (early.installed, later.installed) == (None, None), "the cloud offers nothing new: the poll is not due"
    assert last.installed == f"{NAME}.2"
    assert ledger.repeated == 0
    stamps = [body["time_s"] for body in ledger.of("prediction")]
    assert stamps == [1.7e9] * 5 + [1.7e9 + jump_s, 1.7e9 + jump_s + 61]
    (window,) = ledger.of("telemetry")
    assert (window["predictions"], window["seconds"], window["start_s"]) == (6, 61.0, 1.7e9)
    assert (last.errors, device.outbox.lost, device.not_logged) == ((), 0, 0)


@JUMPS
def test_release_that_waits_for_its_next_trial_never_waits_longer_for_a_jump(tmp_path: Path, jump_s: float) -> None:
    installation = Installation(tmp_path)
    installation.postpone("a.1", "out of memory", 1.7e9)
    assert installation.postponed("a.1", 1.7e9 + 30) is not None
    assert installation.postponed("a.1", 1.7e9 + jump_s) is None
    for attempt in range(12):
        installation.postpone("b.1", "out of memory", 1.7e9 + attempt * jump_s)
    note = json.loads((tmp_path / "postponed/b.1").read_bytes())
    assert note["attempts"] == 12, "the wait still grows"
    assert note["until_s"] - (1.7e9 + 11 * jump_s) == 6 * HOUR_S


def test_release_that_waits_for_years_is_still_put_off_in_good_order(
    tmp_path: Path, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation = Installation(tmp_path / "d")
    installation.postpone(f"{NAME}.1", "out of memory", 1.7e9)
    note = tmp_path / "d/postponed" / f"{NAME}.1"
    note.write_text(json.dumps({**json.loads(note.read_bytes()), "attempts": 5000}))
    monkeypatch.setattr("edgewright_runtime.update.updater.check_bundle_in_child", _out_of_memory)

    with pytest.raises(ShortageError):
        Updater(repository, "stable", tmp_path / "d", clock=lambda: 1.7e9 + YEAR_S).update()
    assert json.loads(note.read_bytes())["until_s"] == 1.7e9 + YEAR_S + 6 * HOUR_S


def _out_of_memory(_: Path) -> None:
    raise ShortageError("out of memory")


@pytest.mark.parametrize("jump_s", [YEAR_S, -YEAR_S])
def test_release_that_was_placed_last_is_the_youngest_whatever_the_clock_said(
    tmp_path: Path,
    repository: str,
    table_bundle: Bundle,
    newer_bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    jump_s: float,
) -> None:
    root = tmp_path / "d"
    monkeypatch.setattr("edgewright_runtime.update.updater.check_bundle_in_child", lambda _: None)
    for number, bundle in enumerate([newer_bundle, table_bundle, newer_bundle], 2):
        Updater(repository, "stable", root).update(quota_bytes=1 << 30)
        for folder in (root / "releases").iterdir():  # what a clock that then jumps leaves behind
            then = folder.stat().st_mtime_ns - round(jump_s * 1e9)
            os.utime(folder, ns=(then, then))
        publish(bundle, repository, "stable", monitoring=replace(EASY, window_s=number))
    Updater(repository, "stable", root).update(quota_bytes=1 << 30)
    installation = Installation(root)
    assert installation.names_by_age() == [f"{NAME}.{version}" for version in (1, 2, 3, 4)]

    (root / f"releases/{NAME}.4/release.json").write_bytes(b"rotten")
    assert installation.recover().name == f"{NAME}.3"
