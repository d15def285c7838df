"""A damaged SQLite file is set aside whole, with its log; a sound one is never touched."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from edgewright.progress import Announcement, progress
from edgewright.sqlite_file import damage_of, set_aside_if_damaged


def zero_header(content: bytes) -> bytes:
    return bytes(100) + content[100:]


def cut_off(content: bytes) -> bytes:
    return content[: len(content) // 2 + 100]


def cut_at_a_page(content: bytes) -> bytes:
    return content[: 4096 * 3]


def spoil_a_page(content: bytes) -> bytes:
    return content[: 4096 * 4] + b"\xff" * 4096 + content[4096 * 5 :]


def text_instead(_: bytes) -> bytes:
    return b"no database at all\n" * 1000


DAMAGES = [zero_header, cut_off, cut_at_a_page, spoil_a_page, text_instead]


def write_database(path: Path, word: str = "kept") -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE words (word TEXT)")
        database.executemany("INSERT INTO words VALUES (?)", [(word * 100,) for _ in range(200)])


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_database_is_set_aside_and_said_in_one_line(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a.db"
    write_database(path)
    path.write_bytes(damaged := damage(path.read_bytes()))
    said: list[Announcement] = []

    with progress.listening(said.append):
        aside = set_aside_if_damaged(path, "MLflow")

    assert aside == tmp_path / "a.db.damaged"
    assert aside.read_bytes() == damaged
    assert not path.exists()
    assert [event.title.splitlines() == [event.title] for event in said] == [True]
    assert "the database of MLflow is damaged (" in said[0].title
    assert "set aside as a.db.damaged, a new one is made" in said[0].title
    write_database(path)
    assert damage_of(path) is None


def test_log_of_a_damaged_database_is_not_played_into_the_new_one(tmp_path: Path) -> None:
    path, left = tmp_path / "a.db", tmp_path / "left.db"
    write_database(path)
    with closing(sqlite3.connect(path)) as database:
        # Not its first page, from which SQLite would make the database whole again.
        database.executescript("PRAGMA journal_mode=WAL; UPDATE words SET word = upper(word)")
        for suffix in ("", "-wal", "-shm"):  # as a killed server leaves them
            shutil.copyfile(f"{path}{suffix}", f"{left}{suffix}")
    left.write_bytes(text_instead(b""))

    set_aside_if_damaged(left, "MLflow")

    assert list(tmp_path.glob("left.db-*")) == []
    with closing(sqlite3.connect(left)) as database:
        assert database.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)


@pytest.mark.parametrize("companion", ["-wal", "-shm", "-journal"])
def test_what_belongs_to_a_database_goes_with_it(
    tmp_path: Path, companion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for suffix in ("", companion):
        (tmp_path / f"a.db{suffix}").write_text(f"of a.db{suffix}")
    monkeypatch.setattr("edgewright.sqlite_file.damage_of", lambda _: "no database")  # SQLite would remove some of it

    set_aside_if_damaged(tmp_path / "a.db", "MLflow")

    left = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert left == {"a.db.damaged": "of a.db", f"a.db.damaged{companion}": f"of a.db{companion}"}


def test_second_damaged_database_does_not_replace_the_first(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    names = []
    for n in range(3):
        path.write_bytes(f"text {n}".encode() * 500)
        aside = set_aside_if_damaged(path, "MLflow")
        assert aside is not None
        names.append((aside.name, aside.read_bytes()[:6]))

    assert names == [("a.db.damaged", b"text 0"), ("a.db.damaged-2", b"text 1"), ("a.db.damaged-3", b"text 2")]


def test_sound_empty_missing_or_locked_database_stays(tmp_path: Path) -> None:
    sound, empty, busy = (tmp_path / name for name in ("sound ?#.db", "empty.db", "busy.db"))
    write_database(sound)
    empty.touch()
    write_database(busy)

    with closing(sqlite3.connect(busy)) as database:
        database.execute("PRAGMA locking_mode=EXCLUSIVE")
        database.execute("BEGIN EXCLUSIVE")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("edgewright.sqlite_file._WAIT_S", 0.0)
            assert [set_aside_if_damaged(p, "MLflow") for p in (sound, empty, busy, tmp_path / "none.db")] == [None] * 4

    assert sorted(tmp_path.iterdir()) == sorted([sound, empty, busy])


def test_database_that_was_emptied_is_said_and_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    write_database(path)
    path.write_bytes(b"")
    said: list[Announcement] = []
    with progress.listening(said.append):
        assert set_aside_if_damaged(path, "MLflow") is None
    assert [event.title for event in said] == [
        f"{path}: the database of MLflow is empty (0 bytes): what it held is lost; a new one is made"
    ]
    write_database(path)
    with progress.listening(said.append):
        set_aside_if_damaged(path, "MLflow")
    assert len(said) == 1
