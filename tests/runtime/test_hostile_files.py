"""A device whose own files were damaged or replaced: what cannot be read is set aside and told, the rest goes on."""

import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from edgewright.monitor import MonitoringPlan
from edgewright.package import Bundle
from edgewright.release import publish
from edgewright_runtime.bundle.monitoring import Monitoring
from edgewright_runtime.device import Device, Settings
from edgewright_runtime.health.monitor import Monitor, TelemetryFile
from edgewright_runtime.health.outbox import Outbox, OutboxError
from edgewright_runtime.health.sensors import Reading
from edgewright_runtime.predict.cloud import Breaker, CloudClient
from edgewright_runtime.predict.hybrid import Policy
from edgewright_runtime.update.installation import Installation
from edgewright_runtime.update.updater import Updater
from tests.runtime.ledger import Ledger
from tests.runtime.loopback import serving

ROW = {"tenure": 0.1, "charges": 0.1, "contract": "One year"}
EASY = MonitoringPlan(max_latency_p95_ms=10_000, max_memory_mb=10_000)
NAME = "churn.edge_device.stable"
CASES, DAMAGES_EACH = 36, 3


class Cool:
    def read(self) -> Reading:
        return Reading()


def _write(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content)


def _sparse(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(1 << 33)


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_text("not empty")


HOSTILE: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "empty": _write(b""),
    "garbage": _write(random.Random(1).randbytes(5000)),
    "deep": _write(b"[" * 200_000),
    "digits": _write(f"{NAME}.2 {'9' * 10_000}".encode()),
    "no digit": _write(f"{NAME}.2 ²".encode()),
    "eight gigabytes": _sparse,
    "pipe": os.mkfifo,
    "folder": _folder,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "endless device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.fixture
def repository(tmp_path: Path, table_bundle: Bundle, newer_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("edgewright_runtime.update.updater.check_bundle_in_child", lambda _: None)
    for bundle in (table_bundle, newer_bundle):
        publish(bundle, str(tmp_path / "r"), "stable", monitoring=EASY)
        Updater(str(tmp_path / "r"), "stable", tmp_path / "whole").update()
    return str(tmp_path / "r")


@pytest.fixture
def whole(tmp_path: Path, repository: str) -> Path:
    """A device's folder with all that may lie in it."""
    device = Device(Settings(tmp_path / "whole", repository), sensors=Cool())
    device.predict(ROW)
    device.close()
    device.installation.refuse("other.edge_device.stable.7", "bad")
    device.installation.postpone(f"{NAME}.3", "out of memory", 0.0)
    return tmp_path / "whole"


def harm(root: Path, chance: random.Random) -> list[str]:
    done = []
    for _ in range(chance.randint(1, DAMAGES_EACH)):
        paths = sorted(path for path in root.rglob("*") if path != root / "bundles")
        path, kind = chance.choice(paths), chance.choice(sorted(HOSTILE))
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            shutil.rmtree(path)
        HOSTILE[kind](path)
        done.append(f"{path.relative_to(root)}: {kind}")
    return done


@pytest.mark.parametrize("part", range(3))
def test_device_answers_and_heals_whatever_was_put_in_the_place_of_its_files(
    tmp_path: Path, repository: str, whole: Path, part: int
) -> None:
    with serving(Ledger(NAME)) as cloud:
        for seed in range(part, CASES, 3):
            root = tmp_path / f"d{seed}"
            shutil.copytree(whole, root, symlinks=True)
            harmed = harm(root, random.Random(seed))
            client = CloudClient(cloud.url, "t", attempts=1, breaker=Breaker(failures=10**9))
            settings = Settings(root, repository, cloud=client, policy=Policy(threshold=0.0), poll_s=0)
            device = Device(settings, sensors=Cool())

            assert device.predict(ROW).model in {f"{NAME}.1", f"{NAME}.2"}, harmed
            ticks = [device.tick() for _ in range(3)]
            sent = device.outbox.counters()["added"]
            device.predict({**ROW, "tenure": 0.9})
            device.close()

            assert not ticks[-1].errors, (harmed, ticks)
            assert ticks[-1].release == f"{NAME}.2" or "trial" in str(harmed), (harmed, ticks)
            assert Outbox(root / "outbox.db").counters()["added"] > sent, harmed
            shutil.rmtree(root)


def _sql(statement: str) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        connection = sqlite3.connect(path)
        with connection:
            connection.executescript(statement)
        connection.close()

    return run


RECORD = "INSERT INTO records (key, body) VALUES ('k', {});"
HOSTILE_RECORDS = {
    "NaN": RECORD.format("""CAST('{"a":NaN}' AS BLOB)"""),
    "infinity": RECORD.format("""CAST('{"a":1e999}' AS BLOB)"""),
    "deep": RECORD.format(f"""CAST('{{"a":{"[" * 100}{"]" * 100}}}' AS BLOB)"""),
    "oversized": RECORD.format("""CAST('{"a":"' || hex(zeroblob(1000000)) || '"}' AS BLOB)"""),
    "number": RECORD.format("7"),
    "no text": RECORD.format("x'ff00ff'"),
}
HOSTILE_STATE = {
    "counter is a text": "UPDATE counters SET value = 'many';",
    "counter is huge": "UPDATE counters SET value = 9000000000000000000 WHERE name = 'bytes';",
    "counter is negative": "UPDATE counters SET value = -9000000000000000000;",
    "counter is gone": "DELETE FROM counters;",
}
OTHER_SHAPE = {
    "other columns": "DROP TABLE records; CREATE TABLE records (a);",
    "no counters": "DROP TABLE counters; CREATE TABLE counters (a);",
    "trigger": "CREATE TRIGGER t BEFORE INSERT ON records BEGIN SELECT RAISE(ABORT, 'no'); END;",
    "view": "DROP TABLE records; CREATE VIEW records AS SELECT 1 AS seq, 'k' AS key, '{}' AS body;",
}


@pytest.mark.parametrize("harmed", [*HOSTILE_RECORDS, *HOSTILE_STATE])
def test_hostile_row_of_an_outbox_leaves_the_others_and_never_stands_in_the_way(tmp_path: Path, harmed: str) -> None:
    outbox = Outbox(tmp_path / "o.db")
    outbox.add({"n": 0})
    outbox.close()
    _sql({**HOSTILE_RECORDS, **HOSTILE_STATE}[harmed])(tmp_path / "o.db")

    again = Outbox(tmp_path / "o.db")
    again.add({"n": 1})
    left: list[dict[str, object]] = []
    while batch := again.batch():
        left += [json.loads(record.body) for record in batch]
        again.acknowledge([record.key for record in batch])

    assert left == [{"n": 0}, {"n": 1}]
    counters = again.counters()
    assert (counters["waiting"], counters["bytes"]) == (0, 0)
    assert (again.set_aside, counters["dropped"]) == (None, 1 if harmed in HOSTILE_RECORDS else 0)


@pytest.mark.parametrize("harmed", OTHER_SHAPE)
def test_file_that_is_no_outbox_is_set_aside(tmp_path: Path, harmed: str) -> None:
    Outbox(tmp_path / "o.db").close()
    _sql(OTHER_SHAPE[harmed])(tmp_path / "o.db")

    outbox = Outbox(tmp_path / "o.db")
    outbox.add({"n": 1})

    assert [json.loads(record.body) for record in outbox.batch()] == [{"n": 1}]
    assert outbox.set_aside == tmp_path / "o.db.damaged"


def test_record_that_the_cloud_would_refuse_for_its_depth_is_not_kept(tmp_path: Path) -> None:
    nested: list[object] = []
    for _ in range(40):
        nested = [nested]
    with pytest.raises(OutboxError, match="nested deeper"):
        Outbox(tmp_path / "o.db").add({"a": nested})


def test_what_an_earlier_download_left_leads_no_file_elsewhere(tmp_path: Path, repository: str) -> None:
    root, outside = tmp_path / "d", tmp_path / "outside"
    outside.mkdir()
    release = Installation(tmp_path / "whole").current().release
    staged = Installation(root).staging / release.manifest.sha256
    staged.mkdir()
    for entry in release.files:
        path = staged / entry.path
        path.with_name(f".{path.name}.part").symlink_to(outside / path.name)
    (staged / ".manifest.json.part").symlink_to(outside / "manifest.json")

    assert Updater(repository, "stable", root).update().status == "installed"
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to itself", "endless device"])
def test_windows_that_cannot_be_written_are_counted_and_stop_no_answer(tmp_path: Path, kind: str) -> None:
    HOSTILE[kind](tmp_path / "a.jsonl")
    file = TelemetryFile(tmp_path, "a")
    monitor = Monitor(file, Monitoring(), device="d", release="a", bundle="b")
    monitor.record(1.0)
    monitor.flush()
    assert file.dropped_windows == 1
