"""One contract, both databases."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgewright.cloud.database import Database
from edgewright.errors import InputError
from tests.cloud.postgres import postgres_binaries, running_postgres


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sqlite":
        opened = Database(f"sqlite:///{folder / 'c.db'}")
        yield opened
        opened.close()
        return
    if postgres_binaries() is None:
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    with running_postgres() as url:
        opened = Database(url)
        yield opened
        opened.close()


def test_token_finds_its_device_and_no_other(shared: Database) -> None:
    token = shared.add_device("token-1")

    assert shared.device_of(token) == "token-1"
    assert shared.device_of(token[:-1]) is None
    with pytest.raises(InputError, match="registered already"):
        shared.add_device("token-1")


def test_each_key_of_a_device_is_kept_once(shared: Database) -> None:
    for name in ("once-1", "once-2"):
        shared.add_device(name)
    rows = [(f"k{i}", {"kind": "prediction", "n": i}) for i in range(100)]

    first = shared.receive("once-1", {"a": 1}, rows)
    again = shared.receive("once-1", {"a": 2}, [*rows[50:], ("new", {})])
    other = shared.receive("once-2", {}, rows[:10])

    assert (first, again, other) == (100, 1, 10)
    found = {device.id: device for device in shared.devices()}
    assert (found["once-1"].records, found["once-2"].records) == (101, 10)
    assert found["once-1"].status == {"a": 2}


@pytest.mark.parametrize("kind", ["a\0b", "\ud800", 5, None])
def test_record_of_any_kind_is_taken(shared: Database, kind: object) -> None:
    """One that is refused would stand at the head of its device's queue for ever."""
    name = f"kinds-{kind!r}"
    shared.add_device(name)

    assert shared.receive(name, {"text": kind}, [("k", {"kind": kind, "text": kind})]) == 1
    # Half a character cannot be sent in a list; the service refuses it in a status, but not in a record.
    listed = {"unreadable": "no JSON"} if kind == "\ud800" else {"text": kind}
    assert next(d for d in shared.devices() if d.id == name).status == listed


def test_the_same_batch_from_many_threads_is_counted_once(shared: Database) -> None:
    shared.add_device("threads")
    rows = [(f"k{i}", {"n": i}) for i in range(50)]

    with ThreadPoolExecutor(8) as pool:
        new = list(pool.map(lambda _: shared.receive("threads", {}, rows), range(16)))

    assert sum(new) == 50
    assert next(d for d in shared.devices() if d.id == "threads").records == 50


def test_nothing_of_a_batch_stays_if_it_fails(shared: Database, tmp_path: Path) -> None:
    before = shared.count()

    with pytest.raises(Exception, match=r"(?i)foreign key"):
        shared.receive("never registered", {}, [("k", {})])
    assert shared.count() == before


@pytest.mark.parametrize(
    "url",
    [
        "postgresql//u:S3cret@db/x",
        "postgresql:/u:S3cret@db",
        "postgresql://u:S3cret@db:abc/x",
        "postgresql://u:S3cret",
        "postgresql://u:S3c@S3cret@db:5432x/x",
        "nosuch://u:S3cret@db/x?password=S3cret",
    ],
)
def test_password_in_a_url_that_cannot_be_read_is_never_shown(url: str) -> None:
    with pytest.raises(InputError, match=r"^database '.*for example sqlite:") as caught:
        Database(url)
    assert "S3c" not in str(caught.value)
    assert "\n" not in str(caught.value)
