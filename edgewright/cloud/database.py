"""What the cloud keeps: devices and the records they sent, each record once. SQLite or PostgreSQL, by URL."""

import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from edgewright.errors import InputError
from edgewright.failures import one_line
from edgewright.monitor import Telemetry
from edgewright.plain_text import without_password
from edgewright.value import Value
from edgewright_runtime.errors import IntegrityError
from edgewright_runtime.health.telemetry import TelemetryRecord
from edgewright_runtime.nesting import MAX_DEPTH, is_nested_deeper

__all__ = ["Database", "DeviceRecord", "hashed", "read_telemetry"]

_metadata = sa.MetaData()
_devices = sa.Table(
    "devices",
    _metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("token_sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("last_seen_s", sa.Float),
    sa.Column("status", sa.Text, nullable=False, default="{}"),
)
_operators = sa.Table(
    "operators",
    _metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("token_sha256", sa.String(64), nullable=False, unique=True),
)
_records = sa.Table(
    "records",
    _metadata,
    # The device's own key: a record that is sent again is the same row.
    sa.Column("device", sa.String(64), sa.ForeignKey("devices.id"), primary_key=True),
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(32), nullable=False, index=True),
    sa.Column("received_s", sa.Float, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)
_MAX_NAME = 64


class DeviceRecord(Value):
    """A device as the cloud knows it; ``status`` is what it said of itself last."""

    id: str
    last_seen_s: float | None
    records: int
    status: dict[str, Any]


class Database:
    """One connection pool; every method is a transaction."""

    def __init__(self, url: str) -> None:
        try:
            # pre-ping: connections that the server closed, as at its restart, are replaced before they are used.
            self._engine = sa.create_engine(url, pool_pre_ping=True)
        except (sa.exc.ArgumentError, ValueError, ImportError) as e:  # ValueError: a port that is not a number
            # A number that is none is quoted there, and may be a piece of the password.
            why = "its port is not a number" if type(e) is ValueError else one_line(e)
            raise InputError(
                f"database '{without_password(url)}': {why}; for example sqlite:////var/lib/edgewright.db, "
                "postgresql+psycopg2://user:password@host:5432/name"
            ) from None
        if self._engine.dialect.name not in {"sqlite", "postgresql"}:
            raise InputError(f"database '{self._engine.dialect.name}': sqlite and postgresql are allowed")
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
        try:
            _metadata.create_all(self._engine)
        except sa.exc.OperationalError as e:
            raise InputError(f"database '{self._shown}': {e.orig}") from e
        except (sa.exc.DatabaseError, sqlite3.DatabaseError) as e:  # the latter of what prepares a connection
            raise InputError(self._damaged(getattr(e, "orig", e))) from e

    @property
    def _shown(self) -> str:
        return without_password(self._engine.url.render_as_string())

    def _damaged(self, why: object) -> str:
        return f"database '{self._shown}' is damaged ({why}) and left as it is; restore a copy, or name another"

    def require_whole(self) -> None:
        """Refuse a SQLite file that is damaged where nothing was read yet; takes about 2 s for each GB.

        Raises:
            InputError: what SQLite found.
        """
        if self._engine.dialect.name != "sqlite":
            return  # PostgreSQL checks its own pages
        try:
            with self._engine.connect() as connection:
                verdict = str(connection.execute(sa.text("PRAGMA quick_check(1)")).scalar_one())
        except sa.exc.DatabaseError as e:
            raise InputError(self._damaged(e.orig)) from e
        if verdict != "ok":
            raise InputError(self._damaged(" ".join(verdict.split())))

    def add_device(self, device: str) -> str:
        """Register a device and return its token, which is kept as a hash only.

        Raises:
            InputError: a name that is empty, too long, or taken.
        """
        return self._registered("device", device, _devices, id=device, status="{}")

    def add_operator(self, operator: str) -> str:
        """Register somebody who may see all devices, and return the token; the same rules as for a device."""
        return self._registered("operator", operator, _operators, name=operator)

    def _registered(self, kind: str, name: str, table: sa.Table, /, **values: str) -> str:
        if not 0 < len(name) <= _MAX_NAME:
            raise InputError(f"{kind} name of {len(name)} characters: 1 to {_MAX_NAME} are allowed")
        token = secrets.token_urlsafe(32)
        try:
            with self._engine.begin() as connection:
                # No look beforehand: between it and the insert another process could take the name.
                connection.execute(table.insert().values(token_sha256=hashed(token), **values))
        except sa.exc.IntegrityError as e:
            raise InputError(f"{kind} '{name}' is registered already") from e
        return token

    def device_of(self, token: str) -> str | None:
        """The device that a token belongs to."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(_devices.c.id).where(_devices.c.token_sha256 == hashed(token)))
            return rows.scalar_one_or_none()

    def is_operator(self, token: str) -> bool:
        """Whether a token is an operator's."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(_operators.c.name).where(_operators.c.token_sha256 == hashed(token)))
            return rows.scalar_one_or_none() is not None

    def token_hashes(self) -> frozenset[str]:
        """The hashes of all tokens, of devices and of operators."""
        query = sa.union_all(sa.select(_devices.c.token_sha256), sa.select(_operators.c.token_sha256))
        with self._engine.connect() as connection:
            return frozenset(connection.execute(query).scalars())

    def receive(self, device: str, status: Mapping[str, Any], records: Sequence[tuple[str, Mapping[str, Any]]]) -> int:
        """Keep what a device sent, each key once; returns how many were new. Committed when this returns."""
        now = time.time()
        rows = [
            {
                "device": device,
                "key": key,
                "kind": _kind(body),
                "received_s": now,
                "body": json.dumps(body),
            }
            for key, body in records
        ]
        new = 0
        with self._engine.begin() as connection:
            if rows:
                new = connection.execute(self._insert_once(), rows).rowcount
            connection.execute(
                _devices.update()
                .where(_devices.c.id == device)
                .values(last_seen_s=now, status=json.dumps(dict(status)))
            )
        # A driver that does not know the number says -1 (PEP 249).
        return max(new, 0)

    def devices(self) -> list[DeviceRecord]:
        """Every registered device."""
        # One query: a query for each device would take as many round trips.
        count = (
            sa.select(sa.func.count()).where(_records.c.device == _devices.c.id).correlate(_devices).scalar_subquery()
        )
        query = sa.select(_devices.c.id, _devices.c.last_seen_s, count, _devices.c.status).order_by(_devices.c.id)
        with self._engine.connect() as connection:
            return [
                DeviceRecord(id=i, last_seen_s=seen, records=n, status=_status(status))
                for i, seen, n, status in connection.execute(query)
            ]

    def count_devices(self) -> int:
        """Registered devices."""
        with self._engine.connect() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(_devices)).scalar_one())

    def count(self, kind: str | None = None) -> int:
        """Records of all devices, of one kind or of all."""
        query = sa.select(sa.func.count()).select_from(_records)
        with self._engine.connect() as connection:
            return int(connection.execute(query if kind is None else query.where(_records.c.kind == kind)).scalar_one())

    def bodies(self, kind: str) -> list[dict[str, Any]]:
        """What devices sent of one kind (``rollback``, ``issue``, ``refused``), with the device, by the time of their
        arrival as the clock here had it.
        """
        query = sa.select(_records.c.device, _records.c.body).where(_records.c.kind == kind)
        with self._engine.connect() as connection:
            rows = connection.execute(query.order_by(_records.c.received_s, _records.c.key)).all()
        return [{**json.loads(body), "device": device} for device, body in rows]

    def telemetry(self) -> Telemetry:
        """The windows that devices sent, as the monitoring flow reads them; bad ones are counted."""
        records, malformed, first_fault = [], 0, None
        with self._engine.connect() as connection:
            query = sa.select(_records.c.device, _records.c.body).where(_records.c.kind == "telemetry")
            for device, body in connection.execute(query.order_by(_records.c.received_s, _records.c.key)):
                # What the outbox adds to every record is not part of a window.
                window = {k: v for k, v in json.loads(body).items() if k not in {"kind", "time_s"}}
                try:
                    records.append(TelemetryRecord.from_line(json.dumps(window).encode()))
                except IntegrityError as e:
                    malformed += 1
                    first_fault = first_fault or f"device {device}: {e}"
        return Telemetry(records, malformed, first_fault)

    def ping(self) -> None:
        """Raise where the database does not answer."""
        with self._engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def _insert_once(self) -> sa.Executable:
        # ON CONFLICT is not part of SQL's standard: each dialect has an insert of its own, with the same words.
        insert = sqlite.insert if self._engine.dialect.name == "sqlite" else postgresql.insert
        return insert(_records).on_conflict_do_nothing(index_elements=["device", "key"])


def _prepare_sqlite(connection: Any, _: object) -> None:
    # FULL: a device forgets a record once it is confirmed, so a confirmation must outlive a power cut.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
        connection.execute(f"PRAGMA {pragma}")


def _status(text: str) -> dict[str, Any]:
    """What a device said of itself; one that cannot be read, by an older version or a damaged disk, hides no other."""
    try:
        status = json.loads(text)
        json.dumps(status, ensure_ascii=False, allow_nan=False).encode()  # as the list will be sent
    except (ValueError, RecursionError):
        return {"unreadable": "no JSON"}
    if not isinstance(status, dict) or is_nested_deeper(status, MAX_DEPTH):
        return {"unreadable": f"no object, or nested deeper than {MAX_DEPTH}"}
    return status


def _kind(body: Mapping[str, Any]) -> str:
    """What sort of record this is; `other` for text that no database takes."""
    # Cut to the column's width, which PostgreSQL enforces; NUL, which it refuses in a text, is not printable.
    kind = str(body.get("kind", "other"))[:32]
    return kind if kind.isprintable() else "other"


def hashed(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def read_telemetry(url: str) -> Telemetry:
    """The windows in the database of ``edgewright cloud`` at an SQLAlchemy URL.

    Raises:
        InputError: the database cannot be opened.
    """
    opened = Database(url)
    try:
        return opened.telemetry()
    finally:
        opened.close()
