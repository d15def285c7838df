"""A device whose disk is full, for real: its folder is a small file system of its own, filled to the last byte."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewright.monitor import MonitoringPlan
from edgewright.package import Bundle
from edgewright.release import publish
from edgewright_runtime.bundle.release import parse_release
from edgewright_runtime.device import Device, Settings
from edgewright_runtime.errors import EdgeRuntimeError
from edgewright_runtime.predict.offline import Privacy
from edgewright_runtime.update.installation import Installation
from edgewright_runtime.update.updater import Updater
from tests.small_disk import fill, mounted, read_only

ROW = {"tenure": 0.1, "charges": 0.1, "contract": "One year"}
EASY = MonitoringPlan(max_latency_p95_ms=10_000, max_memory_mb=10_000)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", megabytes=2) as mount:
        yield mount


def users(device: Device) -> set[str]:
    bodies = [json.loads(record.body) for record in device.outbox.batch(most=10_000, most_bytes=1 << 30)]
    return {body["user"] for body in bodies if body["kind"] == "prediction" and "user" in body}


def test_full_disk_keeps_inference_going_and_loses_nothing_that_was_logged(
    disk: Path, tmp_path: Path, table_bundle: Bundle, newer_bundle: Bundle
) -> None:
    repository, root = str(tmp_path / "repository"), disk / "device"
    publish(table_bundle, repository, "stable", monitoring=EASY)
    device = Device(Settings(root, repository, privacy=Privacy(user="keep")))
    device.predict(ROW, user="before")
    ballast = fill(disk)
    publish(newer_bundle, repository, "stable", monitoring=EASY)

    while not device._active.answers.not_logged:  # SQLite has a little room of its own left
        assert device.predict(ROW, user="full").source in {"edge", "cache"}
    device.flush()
    tick = device.tick()
    answer = device.predict({**ROW, "tenure": 0.7})

    assert (answer.source, answer.model) == ("edge", "churn.edge_device.stable.1")
    assert any("No space left" in error or "are free" in error for error in tick.errors), tick.errors
    assert "before" in users(device)
    with pytest.raises(EdgeRuntimeError, match=r"No space left|are free"):
        Updater(repository, "stable", root).update()

    ballast.unlink()
    assert device.tick().installed == "churn.edge_device.stable.2"
    assert device.predict(ROW, user="after").model == "churn.edge_device.stable.2"
    assert users(device) >= {"before", "after"}
    device.close()


@pytest.mark.parametrize("damaged", [False, True])
def test_device_starts_and_answers_on_a_full_disk(
    disk: Path, tmp_path: Path, table_bundle: Bundle, newer_bundle: Bundle, damaged: bool
) -> None:
    repository, root = str(tmp_path / "repository"), disk / "device"
    publish(table_bundle, repository, "stable", monitoring=EASY)
    Device(Settings(root, repository)).close()
    publish(newer_bundle, repository, "stable", monitoring=EASY)
    Updater(repository, "stable", root).update()
    assert Installation(root).trial_starts() == 0
    for name in ("outbox.db", "outbox.db-wal", "outbox.db-shm"):
        (root / name).unlink(missing_ok=True)
    if damaged:
        (root / "outbox.db").write_bytes(b"no database at all" * 1000)
    ballast = fill(disk)

    device = Device(Settings(root, repository))

    assert device.predict(ROW).model == "churn.edge_device.stable.2"
    assert device._active.answers.not_logged == 1
    ballast.unlink()
    device.predict({**ROW, "tenure": 0.3}, user="after")
    assert len(users(device)) == 1
    device.close()


def test_download_that_fills_the_disk_gives_its_room_back(
    disk: Path, tmp_path: Path, table_bundle: Bundle, newer_bundle: Bundle
) -> None:
    repository, root = tmp_path / "repository", disk / "device"
    publish(table_bundle, str(repository), "stable", monitoring=EASY)
    Updater(str(repository), "stable", root).update()
    publish(newer_bundle, str(repository), "stable", monitoring=EASY)
    release = parse_release((repository / "releases/churn.edge_device.stable/2.json").read_bytes())
    ballast = fill(disk)
    # Room for the files' bytes, not for the pages that they begin.
    os.truncate(ballast, ballast.stat().st_size - 4096 * (sum(b.bytes for b in release.files) // 4096 + 3))
    free = shutil.disk_usage(disk).free

    with pytest.raises(EdgeRuntimeError, match="No space left"):
        Updater(str(repository), "stable", root).update()

    assert list((root / "staging").iterdir()) == []
    assert shutil.disk_usage(disk).free >= free - 4096  # a page for the note when to try again
    assert Installation(root).current_name() == "churn.edge_device.stable.1"


def test_device_answers_from_a_disk_that_can_only_be_read(
    disk: Path, tmp_path: Path, table_bundle: Bundle, newer_bundle: Bundle
) -> None:
    """What a kernel makes of a card that fails."""
    repository, root = str(tmp_path / "repository"), disk / "device"
    publish(table_bundle, repository, "stable", monitoring=EASY)
    before = Device(Settings(root, repository))
    before.predict(ROW)
    before.close()
    publish(newer_bundle, repository, "stable", monitoring=EASY)
    read_only(disk)

    device = Device(Settings(root, repository))

    assert device.predict(ROW).model == "churn.edge_device.stable.1"
    assert device._active.answers.not_logged == 1
    assert any("Read-only file system" in error for error in device.tick().errors)
    read_only(disk, False)
    assert device.tick().installed == "churn.edge_device.stable.2"
    assert device.predict(ROW, user="after").model == "churn.edge_device.stable.2"
    assert len(users(device)) == 1
    device.close()
