"""The file of an outbox: SQLite with a write-ahead log and ``synchronous=FULL``, exchanged where it is damaged.

Every process that has it open holds a share in its lock; who finds it damaged marks it, and the next to open it, once
nobody has it open, sets it aside and begins a new one.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edgewright_runtime.disk import make_folder, open_lock, remove, set_aside
from edgewright_runtime.errors import EdgeRuntimeError

__all__ = ["OVERHEAD_BYTES", "OutboxError", "OutboxFile", "open_connection"]

OVERHEAD_BYTES = 100  # key, index entry and row header of a record, about
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS records
    (seq INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO counters VALUES ('dropped', 0), ('bytes', 0), ('added', 0);
UPDATE counters SET value = 0 WHERE typeof(value) != 'integer' OR value < 0;
UPDATE counters SET value = (SELECT coalesce(sum(length(body) + {OVERHEAD_BYTES}), 0) FROM records)
    WHERE name = 'bytes' AND value != (SELECT coalesce(sum(length(body) + {OVERHEAD_BYTES}), 0) FROM records);
"""  # noqa: S608 - a constant of this module


class OutboxError(EdgeRuntimeError):
    """A record could not be kept: the disk is full, or the file failed."""


def open_connection(path: Path) -> Any:
    """A connection of the standard library, in autocommit mode, for any thread."""
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)


class OutboxFile:
    """The file at ``path``, opened by ``connect``; safe from many threads.

    A damaged file is set aside (``set_aside`` tells where) and a new one begun. Others that have it open make room at
    their next use; until then it is an error here. One that cannot be opened now, as on a full disk, is an error at
    once, or with ``open_later`` at each use until it can.
    """

    def __init__(self, path: Path, connect: Callable[[Path], Any], *, open_later: bool) -> None:
        self._path = path
        self._connect = connect
        self._ends = False
        self._database = threading.RLock()
        self.set_aside: Path | None = None
        self._unusable = path.with_name(f"{path.name}.unusable")
        self._damaged: int | None = None
        self._lock: weakref.finalize[..., OutboxFile] | None = None
        make_folder(path.parent)
        self._db: Any = None
        try:
            self._db = self._opened()
        except OutboxError:
            if not open_later:
                raise

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """The connection, within a transaction that is committed at the end, or taken back where that is an error."""
        with self.reading() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            # KeyboardInterrupt, too: an open transaction would hold the lock of the file.
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """The connection.

        Raises:
            OutboxError: the file cannot be opened, or SQLite refuses a statement.
        """
        with self._database:
            if self._db is not None and not self._ends and os.path.exists(self._unusable):  # noqa: PTH110 - each time
                self._give_up()
            if self._db is None:
                self._db = self._opened()
            try:
                yield self._db
            except sqlite3.Error as e:
                if _is_damage(e):
                    self._tell_of_damage()
                    self._give_up()  # a new one is begun at the next use
                raise OutboxError(f"outbox {self._path.name}: {e}") from e

    def keep_to_the_end(self) -> None:
        """From now on, until `close`, stay with the file that is open, though another process found it damaged."""
        self._ends = True

    def close(self) -> None:
        """Close the file and give back the share in its lock."""
        with self._database:
            if self._db is not None:
                self._db.close()
            self.leave()

    def leave(self) -> None:
        """Give back the share in the lock, as the end of the process would."""
        if self._lock is not None:
            self._lock()

    def _opened(self) -> Any:
        try:
            self._enter()
            try:
                return self._prepared()
            except sqlite3.DatabaseError as e:
                if not _is_damage(e):
                    raise
                self._tell_of_damage()
                self.leave()
                # Entering sets the file aside, now that it is marked and nobody else has it open.
                self._enter()
                return self._prepared()
        except (sqlite3.Error, OSError) as e:
            self.leave()
            raise OutboxError(f"outbox {self._path}: cannot be opened: {e}") from e

    # SQLite deletes a log by its name when it closes a file, whatever file has that name by then. So a damaged one is
    # renamed by nobody who shares it: each holds a lock while it has the file open, and leaves when it is unusable.

    def _enter(self) -> None:
        """Take a share in the file, after setting it aside where it was found damaged."""
        for companion in self._companions():
            if _is_no_file(companion):
                remove(companion)
        descriptor = open_lock(self._path.with_name(f"{self._path.name}.lock"))
        self._lock = weakref.finalize(self, os.close, descriptor)
        if self._is_unusable():
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                raise OSError("it is damaged, and another process still has it open") from e
            if self._is_unusable():  # else another has set it aside meanwhile
                self._put_aside()
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if self._is_unusable():  # found while this waited for its share
            raise OSError("it was found damaged just now")

    def _give_up(self) -> None:
        self._db.close()
        self._db = None
        self.leave()

    def _tell_of_damage(self) -> None:
        with suppress(OSError):  # a full disk: this process knows it anyway, and others find it themselves
            self._damaged = self._path.stat().st_ino
            self._unusable.touch()

    def _is_unusable(self) -> bool:
        known = self._damaged is not None and self._path.exists() and self._path.stat().st_ino == self._damaged
        return known or self._unusable.exists() or _is_no_file(self._path)

    def _companions(self) -> list[Path]:
        return [Path(f"{self._path}{suffix}") for suffix in ("-wal", "-shm")]

    def _prepared(self) -> Any:
        db = self._connect(self._path)
        try:
            db.execute("PRAGMA journal_mode=WAL").fetchall()
            db.execute("PRAGMA synchronous=FULL")
            _check(db)
            for statement in _SCHEMA.split(";\n"):
                if statement.strip():
                    db.execute(statement)
        except BaseException:
            db.close()
            raise
        return db

    def _put_aside(self) -> None:
        """Keep one damaged file for whoever investigates; a second would only fill the disk."""
        for companion in self._companions():  # first: a log that stayed would be played into the new file
            remove(companion)
        if os.path.lexists(self._path):
            self.set_aside = set_aside(self._path)
        remove(self._unusable)
        self._damaged = None


def _check(db: Any) -> None:
    verdict = db.execute("PRAGMA quick_check").fetchall()
    if verdict != [("ok",)]:
        raise sqlite3.DatabaseError(f"the file fails its own check: {verdict[0][0]}")
    for table, columns in (("records", ["seq", "key", "body"]), ("counters", ["name", "value"])):
        # An empty list: no such table yet, the schema makes it.
        there = [row[1] for row in db.execute(f"PRAGMA table_info({table})").fetchall()]
        if there not in ([], columns):
            raise sqlite3.DatabaseError(f"table {table} has columns {there}")
    # A trigger would run statements of a stranger at each insert.
    if db.execute("SELECT 1 FROM sqlite_master WHERE type IN ('trigger', 'view')").fetchall():
        raise sqlite3.DatabaseError("the file holds what no outbox has")


def _is_damage(error: sqlite3.Error) -> bool:
    # Its subclasses tell of a full disk, a lock or a wrong call: the file itself is sound then.
    return type(error) is sqlite3.DatabaseError


def _is_no_file(path: Path) -> bool:
    """Whether there is something else in a file's place: a folder, a pipe, a device."""
    return path.exists() and not path.is_file()
