"""A database that goes away in the middle of work, and one that is damaged: nothing lost, nothing twice."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgewright.cloud.database import Database
from edgewright.cloud.serve import serve
from edgewright.errors import InputError
from edgewright_runtime.errors import TransportError
from edgewright_runtime.health.outbox import Outbox
from edgewright_runtime.predict.cloud import Breaker, CloudClient
from edgewright_runtime.predict.offline import sync
from tests.cloud.postgres import Postgres, controlled_postgres, postgres_binaries

pytestmark = pytest.mark.filterwarnings("ignore:websockets.*:DeprecationWarning")

RECORDS = 2000
Serving = Callable[..., str]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    if postgres_binaries() is None:
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    with controlled_postgres() as server:
        yield server


@pytest.fixture
def database(postgres: Postgres) -> Iterator[Database]:
    """What `serving` serves."""
    opened = Database(postgres.url)
    yield opened
    opened.close()


def outbox_of(path: Path, records: int = RECORDS) -> Outbox:
    outbox = Outbox(path)
    outbox.add_many([{"kind": "prediction", "n": n} for n in range(records)])
    return outbox


def sync_all(outbox: Outbox, url: str, token: str) -> int:
    """Sync until nothing waits, as a device does in the course of time; returns how often that failed."""
    cloud = CloudClient(url, token, timeout_s=60.0, attempts=1, breaker=Breaker(failures=1_000_000))
    failures = 0
    while outbox.counters()["waiting"]:
        try:
            sync(outbox, cloud, {})
        except TransportError as e:
            assert "the database does not answer; send it again later" in str(e)  # noqa: PT017 - each time
            failures += 1
    return failures


def kept(database: Database, device: str) -> list[int]:
    return sorted(body["n"] for body in database.bodies("prediction") if body["device"] == device)


def at_insert(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> None:
    """Act inside the transaction of one batch, after its statement was prepared and before it runs."""
    insert, calls = Database._insert_once, iter(range(1, 1_000_000))

    def acting(self: Database) -> Any:
        if next(calls) == number:
            act()
        return insert(self)

    monkeypatch.setattr(Database, "_insert_once", acting)


def test_restart_in_the_middle_of_a_sync_loses_nothing_and_counts_nothing_twice(
    database: Database, postgres: Postgres, serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, outbox = database.add_device("middle"), outbox_of(tmp_path / "o.db")
    at_insert(monkeypatch, 3, lambda: postgres.control("restart"))

    assert sync_all(outbox, serving(), token) == 1

    assert kept(database, "middle") == [*range(RECORDS)]
    assert database._engine.pool.checkedout() == 0


def test_many_devices_sync_through_a_restart(
    database: Database, postgres: Postgres, serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"crowd-{n}" for n in range(6)]
    tokens = [database.add_device(name) for name in names]
    outboxes = [outbox_of(tmp_path / f"{name}.db") for name in names]
    at_insert(monkeypatch, 8, lambda: postgres.control("restart"))
    url = serving()

    with ThreadPoolExecutor(len(names)) as pool:
        failures = list(pool.map(lambda outbox, token: sync_all(outbox, url, token), outboxes, tokens))

    assert sum(failures) >= 1
    assert [kept(database, name) for name in names] == [[*range(RECORDS)]] * len(names)
    assert database._engine.pool.checkedout() == 0


def test_requests_are_told_to_come_again_while_the_database_is_away(
    database: Database, postgres: Postgres, serving: Serving
) -> None:
    token, operator = database.add_device("patient"), database.add_operator("anna")
    url = serving()
    requests: list[tuple[str, str, str, Any]] = [
        ("POST", "/v1/sync", token, {"status": {}, "records": [{"key": "k", "body": {"n": 1}}]}),
        ("GET", "/v1/devices", operator, None),
        ("GET", "/metrics", operator, None),
    ]

    def ask() -> list[httpx.Response]:
        return [
            httpx.request(method, f"{url}{path}", json=body, headers={"Authorization": f"Bearer {who}"}, timeout=60)
            for method, path, who, body in requests
        ]

    postgres.control("stop")
    try:
        away, health = ask(), httpx.get(f"{url}/healthz")
    finally:
        postgres.control("start")

    assert [reply.status_code for reply in [*away, health]] == [503] * 4
    assert {reply.headers["Retry-After"] for reply in away} == {"2"}
    assert {reply.json()["detail"] for reply in away} == {"the database does not answer; send it again later"}
    assert [reply.status_code for reply in ask()] == [200] * 3
    assert next(device for device in database.devices() if device.id == "patient").records == 1


def test_fault_of_our_own_is_no_passing_one(database: Database, serving: Serving, monkeypatch: Any) -> None:
    token = database.add_device("unlucky")
    monkeypatch.setattr(Database, "device_of", lambda *_: "never registered")  # a foreign key that no other try finds
    body = {"status": {}, "records": [{"key": "k", "body": {}}]}
    reply = httpx.post(f"{serving()}/v1/sync", json=body, headers={"Authorization": f"Bearer {token}"})
    assert reply.status_code == 500


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cloud.db"
    opened = Database(f"sqlite:///{path}")
    opened.add_device("board")
    opened.receive("board", {}, [(f"k{n}", {"n": "x" * 500}) for n in range(200)])
    opened.close()
    return path


@pytest.mark.parametrize("damage", [lambda c: bytes(100) + c[100:], lambda _: b"no database at all" * 1000])
def test_damaged_file_is_one_line_and_stays_as_it_is(file: Path, damage: Callable[[bytes], bytes]) -> None:
    file.write_bytes(damaged := damage(file.read_bytes()))
    command = [sys.executable, "-m", "edgewright", "cloud", "add-device", "other", "--database", f"sqlite:///{file}"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"error database 'sqlite:///{file}' is damaged (file is not a database) and left as it is" in done.stderr
    assert file.read_bytes() == damaged


@pytest.mark.parametrize("pages", [6, 10])
def test_file_that_is_cut_off_is_not_served(file: Path, pages: int) -> None:
    file.write_bytes(damaged := file.read_bytes()[: 4096 * pages])

    with pytest.raises(InputError, match=r"is damaged .* and left as it is; restore a copy, or name another"):
        serve(database=f"sqlite:///{file}")

    assert file.read_bytes() == damaged


def test_whole_file_is_served_and_its_records_are_there(file: Path) -> None:
    opened = Database(f"sqlite:///{file}")
    opened.require_whole()
    assert opened.count() == 200
    opened.close()
