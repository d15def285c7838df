"""Records that must reach the cloud, kept through power cuts until they do.

SQLite with a write-ahead log and ``synchronous=FULL``: `add` returns when the record is on the disk. Callers that
come at the same time share one commit (group commit). `add_soon` does not wait for the disk: a thread commits for it.
Beyond the disk budget the oldest records are dropped, and counted in the same transaction.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgewright_runtime.health.outbox_file import OVERHEAD_BYTES, OutboxError, OutboxFile, open_connection
from edgewright_runtime.nesting import MAX_DEPTH, is_nested_deeper
from edgewright_runtime.strict_json import bounded_integer

__all__ = ["Outbox", "OutboxError", "Record", "open_connection"]

# A record that the cloud would refuse for its size would stand at the head of the queue for ever.
_MAX_RECORD_BYTES = 1 << 20
_MAX_DEPTH = MAX_DEPTH - 4  # it is sent within an object, a list and an object
# What waits in memory while the disk is slow; beyond it a record is refused rather than the memory filled.
_MAX_PENDING = 10_000


class Record(NamedTuple):
    """``key`` makes a repeated delivery harmless: the receiver counts it once."""

    key: str
    body: bytes


class _Ticket:
    __slots__ = ("awaited", "done", "error", "records")

    def __init__(self, records: Sequence[Record], *, awaited: bool) -> None:
        self.records = records
        self.awaited = awaited
        self.done = False
        self.error: Exception | None = None


class Outbox:
    """A durable queue at ``path``, at most about ``max_bytes`` of records; safe from many threads.

    A damaged file is set aside (``set_aside`` tells where) and a new one begun: never a crash loop. Others that
    have it open make room at their next use; until then it is an error here. One that cannot be opened now, as on a
    full disk, is an error at once, or with ``open_later`` at each use until it can. A single record that rotted is
    dropped, and counted as such. ``lost`` counts the records of `add_soon` that could not be written.
    """

    def __init__(
        self,
        path: Path,
        max_bytes: int = 64 << 20,
        connect: Callable[[Path], Any] = open_connection,
        *,
        open_later: bool = False,
    ) -> None:
        self._file = OutboxFile(path, connect, open_later=open_later)
        self._name = path.name
        self._max_bytes = max_bytes
        self._condition = threading.Condition()
        self._pending: list[_Ticket] = []
        self._leading = self._closed = False
        self._writer: threading.Thread | None = None
        self.lost = 0

    @property
    def set_aside(self) -> Path | None:
        """Where a file that was damaged was put; None where there was none."""
        return self._file.set_aside

    def add(self, content: Mapping[str, Any]) -> str:
        """Keep a record; it is durable when this returns its key.

        Raises:
            OutboxError: it could not be written.
        """
        return self.add_many([content])[0]

    def add_many(self, contents: Sequence[Mapping[str, Any]]) -> list[str]:
        """Keep several records in one commit, all or none."""
        records = [Record(uuid.uuid4().hex, _encoded(content)) for content in contents]
        self._settle(_Ticket(records, awaited=True))
        return [record.key for record in records]

    def add_soon(self, content: Mapping[str, Any]) -> None:
        """Keep a record without waiting for the disk: durable a commit later, gone if the power fails before.

        Raises:
            OutboxError: the outbox is closed, or the disk is so slow that too many records wait already.
        """
        ticket = _Ticket([Record(uuid.uuid4().hex, _encoded(content))], awaited=False)
        with self._condition:
            # Who does not wait could add faster than a disk writes, until the memory is full.
            if self._closed or len(self._pending) >= _MAX_PENDING:
                why = "it is closed" if self._closed else f"{len(self._pending)} records wait for the disk"
                raise OutboxError(f"outbox {self._name}: the record was not kept: {why}")
            self._pending.append(ticket)
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, daemon=True)
                self._writer.start()
            self._condition.notify_all()

    def flush(self) -> None:
        """Wait until nothing waits for the disk."""
        with self._condition:
            self._condition.wait_for(lambda: not self._pending and not self._leading)

    def batch(self, most: int = 500, most_bytes: int = 512 << 10) -> list[Record]:
        """The oldest records, up to a number and a size; at least one if there is any."""
        while True:
            records: list[Record] = []
            rotten: list[int] = []
            size = 0
            with self._file.reading() as db:
                # As blobs: text that rotted is no UTF-8, and would end the whole query instead of one record.
                query = "SELECT seq, CAST(key AS BLOB), CAST(body AS BLOB) FROM records ORDER BY seq LIMIT ?"
                for seq, key, body in db.execute(query, (most,)):
                    size += len(body)
                    if records and size > most_bytes:
                        break
                    if _is_object(body):
                        records.append(Record(_known_key(db, seq, key), bytes(body)))
                    else:
                        rotten.append(seq)
            if not rotten:
                return records
            # After the reading: a cursor must not run over rows that are deleted beneath it.
            with self._file.transaction() as db:
                for seq in rotten:
                    _drop(db, seq)

    def acknowledge(self, keys: Sequence[str]) -> None:
        """Forget records that have arrived."""
        with self._file.transaction() as db:
            for key in keys:
                rows = db.execute("SELECT length(body) FROM records WHERE key = ?", (key,)).fetchall()
                if rows:
                    db.execute("DELETE FROM records WHERE key = ?", (key,))
                    _count(db, "bytes", -(rows[0][0] + OVERHEAD_BYTES))

    def counters(self) -> dict[str, int]:
        """``waiting`` records, their ``bytes``, and how many were ever ``added`` and ``dropped``."""
        with self._file.reading() as db:
            counts = dict(db.execute("SELECT name, value FROM counters").fetchall())
            counts["waiting"] = db.execute("SELECT count(*) FROM records").fetchall()[0][0]
        return counts

    def close(self) -> None:
        """Write what waits, and close the file."""
        with self._condition:
            self._closed = True
            self._file.keep_to_the_end()
            self._condition.notify_all()
        if self._writer is not None:
            self._writer.join()
        self._file.close()

    # Group commit: the first caller to find nobody leading commits for all who wait.

    def _settle(self, ticket: _Ticket) -> None:
        with self._condition:
            self._pending.append(ticket)
            # A leader may have taken this ticket along: then it comes back done.
            while self._leading and not ticket.done:
                self._condition.wait()
            if not ticket.done:
                self._leading = True
                together, self._pending = self._pending, []
        if not ticket.done:
            self._commit(together)
        if ticket.error is not None:
            raise OutboxError(f"the record was not kept: {ticket.error}") from ticket.error

    def _write(self) -> None:
        """The thread that commits for `add_soon`, together with whoever waits at that time."""
        while True:
            with self._condition:
                while self._leading or not self._pending:
                    if self._closed and not self._pending:
                        return
                    self._condition.wait()
                self._leading = True
                together, self._pending = self._pending, []
            self._commit(together)

    def _commit(self, tickets: Sequence[_Ticket]) -> None:
        error: Exception | None = OutboxError("interrupted before the commit")
        try:
            with self._file.transaction() as db:
                for ticket in tickets:
                    for record in ticket.records:
                        db.execute("INSERT INTO records (key, body) VALUES (?, ?)", (record.key, record.body))
                        _count(db, "bytes", len(record.body) + OVERHEAD_BYTES)
                        _count(db, "added", 1)
                self._drop_oldest(db)
            error = None
        except Exception as e:
            error = e
        # Whatever ended the commit, those who wait are woken, and somebody else may lead.
        finally:
            with self._condition:
                self._leading = False
                for ticket in tickets:
                    ticket.done, ticket.error = True, error
                    if error is not None and not ticket.awaited:
                        self.lost += len(ticket.records)
                self._condition.notify_all()

    def _drop_oldest(self, db: Any) -> None:
        excess = _value(db, "bytes") - self._max_bytes
        while excess > 0:
            rows = db.execute("SELECT seq FROM records ORDER BY seq LIMIT 1").fetchall()
            if not rows:
                return
            excess -= _drop(db, rows[0][0])


def _is_object(body: bytes) -> bool:
    """Whether the cloud would take it: one that it refuses would stand at the head of the queue for ever."""
    if len(body) > _MAX_RECORD_BYTES:
        return False
    try:
        content = json.loads(body, parse_int=bounded_integer)
        json.dumps(content, allow_nan=False)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and not is_nested_deeper(content, _MAX_DEPTH)


def _known_key(db: Any, seq: int, key: bytes) -> str:
    """A record's key, which the index of keys must know: the record could never be deleted by another."""
    text = bytes(key).decode(errors="replace")
    if db.execute("SELECT seq FROM records WHERE key = ?", (text,)).fetchall() != [(seq,)]:
        raise sqlite3.DatabaseError(f"the key of record {seq} is not the one that it was kept under")
    return text


def _drop(db: Any, seq: int) -> int:
    """Delete a record that was not confirmed, and count it; how many bytes of the budget that frees."""
    ((length,),) = db.execute("SELECT length(body) FROM records WHERE seq = ?", (seq,)).fetchall()
    db.execute("DELETE FROM records WHERE seq = ?", (seq,))
    _count(db, "bytes", -(length + OVERHEAD_BYTES))
    _count(db, "dropped", 1)
    return int(length) + OVERHEAD_BYTES


def _encoded(content: Mapping[str, Any]) -> bytes:
    try:
        body = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as e:
        raise OutboxError(f"the record is no JSON: {e}") from e
    if is_nested_deeper(content, _MAX_DEPTH):
        raise OutboxError(f"the record is nested deeper than {_MAX_DEPTH}")
    if len(body) > _MAX_RECORD_BYTES:
        raise OutboxError(f"a record of {len(body)} bytes; at most {_MAX_RECORD_BYTES} are kept")
    return body


def _value(db: Any, name: str) -> int:
    return int(db.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchall()[0][0])


def _count(db: Any, name: str, change: int) -> None:
    db.execute("UPDATE counters SET value = value + ? WHERE name = ?", (change, name))
