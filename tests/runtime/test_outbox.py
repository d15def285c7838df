import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgewright_runtime.health.outbox import Outbox, OutboxError


def bodies(outbox: Outbox) -> list[dict[str, int]]:
    return [json.loads(record.body) for record in outbox.batch()]


def test_records_leave_in_order_once_acknowledged(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db")
    keys = outbox.add_many([{"n": 1}, {"n": 2}, {"n": 3}])

    assert bodies(outbox) == [{"n": 1}, {"n": 2}, {"n": 3}]
    outbox.acknowledge(keys[:2])
    outbox.acknowledge(["never there"])

    assert bodies(outbox) == [{"n": 3}]
    outbox.acknowledge(keys[2:])
    assert outbox.counters() == {"waiting": 0, "bytes": 0, "added": 3, "dropped": 0}


def test_records_survive_the_process(tmp_path: Path) -> None:
    Outbox(tmp_path / "o.db").add({"n": 1})

    assert bodies(Outbox(tmp_path / "o.db")) == [{"n": 1}]


def test_batch_keeps_to_its_size_but_never_starves(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db")
    outbox.add_many([{"n": "x" * 1000}] * 5)

    assert len(outbox.batch(most_bytes=2500)) == 2
    assert len(outbox.batch(most_bytes=10)) == 1
    assert len(outbox.batch(most=3)) == 3


def test_beyond_the_budget_the_oldest_go_and_are_counted(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db", max_bytes=2000)
    for n in range(50):
        outbox.add({"n": n})

    kept = [body["n"] for body in bodies(outbox)]
    counters = outbox.counters()
    assert kept == list(range(50 - len(kept), 50))
    assert counters["dropped"] + counters["waiting"] == counters["added"] == 50
    assert counters["bytes"] <= 2000


def test_eight_threads_share_commits_and_lose_nothing(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db")
    keys: list[str] = []

    def work(worker: int) -> None:
        keys.extend(outbox.add({"w": worker, "n": n}) for n in range(40))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    found = outbox.batch(most=1000)
    assert {record.key for record in found} == set(keys)
    assert len(found) == 320
    order: dict[int, list[int]] = {}
    for record in found:
        body = json.loads(record.body)
        order.setdefault(body["w"], []).append(body["n"])
    assert all(numbers == sorted(numbers) for numbers in order.values())


def test_records_that_nobody_waits_for_are_kept_soon(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db")

    def work(worker: int) -> None:
        for n in range(40):
            (outbox.add if n % 4 == 0 else outbox.add_soon)({"w": worker, "n": n})

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outbox.flush()

    found = [json.loads(record.body) for record in Outbox(tmp_path / "o.db").batch(most=1000)]
    assert sorted((body["w"], body["n"]) for body in found) == [(w, n) for w in range(8) for n in range(40)]
    assert outbox.lost == 0


def test_close_writes_what_waits_and_takes_nothing_more(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db")
    for n in range(500):
        outbox.add_soon({"n": n})
    outbox.close()

    assert len(Outbox(tmp_path / "o.db").batch(most=1000)) == 500
    with pytest.raises(OutboxError, match="closed"):
        outbox.add_soon({"n": 500})


def test_nobody_waits_while_the_disk_does_and_memory_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgewright_runtime.health.outbox._MAX_PENDING", 20)
    outbox = Outbox(tmp_path / "o.db")
    blocker = sqlite3.connect(tmp_path / "o.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")  # as long as this stands, no commit goes through

    def refusal() -> tuple[int, str]:
        for n in itertools.count():
            try:
                outbox.add_soon({"n": n})
            except OutboxError as e:
                return n, str(e)
        raise AssertionError("an endless loop ended")

    kept, why = refusal()
    blocker.execute("COMMIT")
    blocker.close()
    outbox.flush()

    assert "20 records wait for the disk" in why
    assert 20 <= kept <= 40
    assert len(outbox.batch()) == kept


def test_what_could_not_be_written_later_is_counted(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db")
    outbox._file._db.close()  # every statement fails from here on

    for n in range(5):
        outbox.add_soon({"n": n})
    outbox.flush()

    assert outbox.lost == 5


@pytest.mark.parametrize("damage", [b"this is no database at all" * 100, b""], ids=["overwritten", "empty"])
def test_damaged_file_is_set_aside_and_a_new_one_begun(tmp_path: Path, damage: bytes) -> None:
    Outbox(tmp_path / "o.db").close()
    (tmp_path / "o.db").write_bytes(damage)

    outbox = Outbox(tmp_path / "o.db")
    outbox.add({"n": 1})

    assert bodies(outbox) == [{"n": 1}]
    assert (outbox.set_aside is not None) == bool(damage)


def test_damage_in_the_middle_is_noticed(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db")
    outbox.add_many([{"n": "x" * 500}] * 200)
    outbox.close()
    content = bytearray((tmp_path / "o.db").read_bytes())
    content[4096 * 2 : 4096 * 6] = os.urandom(4096 * 4)
    (tmp_path / "o.db").write_bytes(content)

    again = Outbox(tmp_path / "o.db")

    assert again.set_aside is not None
    assert again.set_aside.exists()
    again.add({"n": 1})
    assert len(bodies(again)) == 1


def test_damage_found_while_in_use_is_set_aside_too(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db")
    outbox.add_many([{"n": "x" * 500}] * 200)
    with sqlite3.connect(tmp_path / "o.db") as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.close()
    content = bytearray((tmp_path / "o.db").read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    (tmp_path / "o.db").write_bytes(content)

    with pytest.raises(OutboxError):
        outbox.batch()
    outbox.add({"n": 1})

    assert outbox.set_aside is not None
    assert bodies(outbox) == [{"n": 1}]


def damage(path: Path) -> None:
    """Overwrite all but the first page, as a failing card does."""
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.close()
    with path.open("r+b") as stream:  # in place: whoever has the file open sees it
        stream.seek(4096)
        stream.write(os.urandom(path.stat().st_size - 4096))


def test_damaged_file_that_two_have_open_is_set_aside_once_and_the_new_one_never(tmp_path: Path) -> None:
    """SQLite deletes a log by its name when it closes: a file must not be renamed under somebody who has it open."""
    first, second = Outbox(tmp_path / "o.db"), Outbox(tmp_path / "o.db")
    first.add_many([{"n": "x" * 500}] * 200)
    assert len(second.batch(most=1000)) == 200
    damage(tmp_path / "o.db")

    with pytest.raises(OutboxError):
        first.batch()
    with pytest.raises(OutboxError, match="another process"):
        first.add({"n": 0})
    second.add({"n": 1})  # the second makes room, and begins the new file
    first.add({"n": 2})
    second.add({"n": 3})
    second.close()
    first.add({"n": 4})

    assert bodies(first) == [{"n": n} for n in (1, 2, 3, 4)]
    first.close()
    assert bodies(Outbox(tmp_path / "o.db")) == [{"n": n} for n in (1, 2, 3, 4)]
    assert (tmp_path / "o.db.damaged").stat().st_size > 4096
    assert not (tmp_path / "o.db.unusable").exists()


def test_kill_while_a_file_is_set_aside_leaves_no_log_to_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = Outbox(tmp_path / "o.db")
    outbox.add_many([{"n": "x" * 500}] * 200)
    log = (tmp_path / "o.db-wal").read_bytes()
    outbox.close()
    damage(tmp_path / "o.db")
    (tmp_path / "o.db-wal").write_bytes(log)  # a whole one, as a process that was killed leaves it
    left: list[bool] = []

    def killed(self: Path, target: Path) -> Path:
        left.append((tmp_path / "o.db-wal").exists())
        raise KeyboardInterrupt

    (tmp_path / "o.db.unusable").touch()
    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        Outbox(tmp_path / "o.db")
    monkeypatch.undo()

    assert left == [False], "the log would be played into the new file"
    again = Outbox(tmp_path / "o.db")
    again.add({"n": 1})
    assert bodies(again) == [{"n": 1}]


@pytest.mark.parametrize("byte", [0xFF, ord("[")], ids=["no text", "no object"])
def test_record_that_rotted_is_dropped_and_counted_and_the_others_leave(tmp_path: Path, byte: int) -> None:
    """SQLite's own check looks at the structure of its pages, not at what a record says."""
    outbox = Outbox(tmp_path / "o.db")
    outbox.add_many([{"n": n} for n in range(5)])
    outbox.close()
    content = bytearray((tmp_path / "o.db").read_bytes())
    content[content.index(b'{"n":2}')] = byte
    (tmp_path / "o.db").write_bytes(content)

    again = Outbox(tmp_path / "o.db")

    assert bodies(again) == [{"n": n} for n in (0, 1, 3, 4)]
    again.acknowledge([record.key for record in again.batch()])
    assert again.counters() == {"waiting": 0, "bytes": 0, "added": 5, "dropped": 1}


def test_number_that_no_cloud_reads_leaves_with_its_record(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db")
    outbox.add_many([{"n": 1}, {"n": 10**600}, {"n": 2}])
    assert bodies(outbox) == [{"n": 1}, {"n": 2}]
    assert outbox.counters()["dropped"] == 1
    outbox.close()


@pytest.mark.parametrize("byte", [0xFE, ord("g")], ids=["no text", "another key"])
def test_key_that_its_index_does_not_know_is_damage(tmp_path: Path, byte: int) -> None:
    """Such a record could never be deleted by its key, and would stand at the head of the queue for ever."""
    outbox = Outbox(tmp_path / "o.db")
    key = outbox.add_many([{"n": n} for n in range(5)])[2].encode()
    outbox.close()
    content = bytearray((tmp_path / "o.db").read_bytes())
    content[content.index(key + b'{"n":2}')] = byte
    (tmp_path / "o.db").write_bytes(content)

    again = Outbox(tmp_path / "o.db")
    with pytest.raises(OutboxError):
        again.batch()
    again.add({"n": 9})

    assert bodies(again) == [{"n": 9}]
    assert again.set_aside is not None


_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from edgewright_runtime.health.outbox import Outbox, OutboxError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
outbox = Outbox(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
kept = 0
try:
    while True:
        outbox.add({"n": "x" * 5000})
        kept += 1
except OutboxError as e:
    print(kept)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
outbox.add({"n": "after"})
"""


def test_full_disk_is_an_error_that_passes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(tmp_path / "o.db")], capture_output=True, text=True, check=True
    )

    kept = int(done.stdout)
    assert kept > 3
    assert len(Outbox(tmp_path / "o.db").batch()) == kept + 1


_WRITER = """
import sys
from pathlib import Path
from edgewright_runtime.health.outbox import Outbox
outbox = Outbox(Path(sys.argv[1]))
while True:
    print(outbox.add({"n": 1}), flush=True)
"""


def test_kill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    acknowledged: set[str] = set()
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path / "o.db")], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(20)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        acknowledged |= {line.strip() for line in lines if line.endswith("\n")}

    found = {record.key for record in Outbox(tmp_path / "o.db").batch(most=100_000, most_bytes=1 << 30)}
    assert len(acknowledged) >= 100
    assert acknowledged <= found


def test_error_names_the_outbox(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db")
    outbox.close()

    with pytest.raises(OutboxError, match=r"o\.db"):
        outbox.add({"n": 1})
    assert (tmp_path / "o.db").exists(), "a wrong call is not damage"
