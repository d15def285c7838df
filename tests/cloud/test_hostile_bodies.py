"""What a device with a good token sends to break the cloud for others; `docs/security.md` says what it may not do."""

import gzip
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import HTTPException
from pydantic import ValidationError

from edgewright.cloud.bodies import _parsed
from edgewright.cloud.database import Database
from edgewright.package import Bundle
from edgewright_runtime.health.outbox import Outbox
from edgewright_runtime.predict.cloud import CloudClient
from edgewright_runtime.predict.offline import sync
from edgewright_runtime.predict.protocol import SyncRequest

pytestmark = pytest.mark.filterwarnings("ignore:websockets.*:DeprecationWarning")

Serving = Callable[..., str]


def post(url: str, token: str, body: bytes | str, **headers: str) -> httpx.Response:
    return httpx.post(url, content=body, headers={"Authorization": f"Bearer {token}", **headers}, timeout=60)


def listed(url: str, token: str) -> list[dict[str, Any]]:
    reply = httpx.get(f"{url}/v1/devices", headers={"Authorization": f"Bearer {token}"})
    assert reply.status_code == 200, reply.text
    return [device["status"] for device in reply.json()]


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (r'{"a": "\ud800"}', 422, "half a character ('\\ud800')"),
        (r'{"\udfff": 1}', 422, "half a character ('\\udfff')"),
        (r'{"a": [{"b": {"\ud800": 1}}]}', 422, "half a character"),
        ('{"a": 1e999}', 400, "Out of range float values"),
        ('{"a": [-1e999]}', 400, "Out of range float values"),
        (json.dumps({"a": "x" * 70_000}), 413, "a status of 70009 bytes; at most 65536 are kept"),
    ],
)
def test_status_that_a_list_cannot_hold_is_refused(
    serving: Serving, database: Database, status: str, code: int, message: str
) -> None:
    token, operator, url = database.add_device("board"), database.add_operator("anna"), serving()

    reply = post(f"{url}/v1/sync", token, f'{{"status": {status}, "records": []}}')

    assert (reply.status_code, message in reply.json()["detail"]) == (code, True), reply.text
    assert listed(url, operator) == [{}]


@pytest.mark.parametrize("status", [{"a": "\ud800"}, {"\ud800": 1}, {"a": float("inf")}, {"a": [float("nan")]}])
def test_status_of_an_older_version_hides_no_device(
    serving: Serving, database: Database, status: dict[str, Any]
) -> None:
    database.add_device("bad")
    database.add_device("fine")
    database.receive("bad", status, [])
    assert listed(serving(), database.add_operator("anna")) == [{"unreadable": "no JSON"}, {}]


def test_infinite_number_in_a_record_is_refused_with_its_batch(serving: Serving, database: Database) -> None:
    token = database.add_device("board")
    reply = post(
        f"{serving()}/v1/sync",
        token,
        '{"status": {}, "records": [{"key": "k", "body": {"kind": "issue", "v": 1e999}}]}',
    )
    assert reply.status_code == 400
    assert database.count() == 0


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/v1/predict", r'{"model": "\ud800", "row": 1}', 404),
        ("/v1/predict", r'{"model": "churn", "row": {"\ud800": 1}}', 422),
        ("/v1/predict", r'{"model": "churn", "row": {"tenure": "\ud800", "charges": 1, "contract": "\ud800"}}', 422),
        ("/v1/predict", r'{"model": "churn", "row": {}, "\ud800": 1}', 422),
        ("/v1/sync", r'{"status": {}, "records": [], "\ud800": 1}', 422),
        ("/v1/predict", json.dumps({"model": "m" * 1_000_000, "row": 1}), 404),
        ("/v1/sync", json.dumps({"status": {}, "records": [], "e" * 1_000_000: 1}), 422),
        ("/v1/sync", json.dumps({"status": {}, "records": [{"key": "x" * 1000, "body": {}}] * 1000}), 422),
    ],
)
def test_refusal_is_short_and_can_be_sent(
    serving: Serving, database: Database, table_bundle: Bundle, path: str, body: str, code: int
) -> None:
    url = serving(bundles=[table_bundle.artifact.path])
    reply = post(f"{url}{path}", database.add_device("board"), body)
    assert reply.status_code == code
    assert len(reply.json()["detail"]) <= 500


@pytest.mark.parametrize(
    "record",
    [
        {"input": [0] * 500_000},
        {"input": ["é"] * 100_000},
        {"input": "x" * 1_000_000},
        {"input": [[0]] * 250_000},
        {"user": "\ud800"},
        {"\ud800": "\0"},
        {"value": 10**499},
        {"value": 1.7976931348623157e308},
    ],
    ids=lambda record: str(record)[:20].encode("ascii", "replace").decode(),
)
def test_cloud_takes_whatever_an_outbox_takes(
    serving: Serving, database: Database, tmp_path: Path, record: dict[str, Any]
) -> None:
    """One that it refused would stand at the head of the queue for ever."""
    outbox = Outbox(tmp_path / "outbox.db")
    outbox.add(record)
    outbox.add({"kind": "issue"})
    cloud = CloudClient(serving(), database.add_device("board"), timeout_s=60)

    assert sync(outbox, cloud, {}).records == 2

    assert database.bodies("other") == [{**record, "device": "board"}]
    outbox.close()


def test_full_batch_of_small_values_is_taken(serving: Serving, database: Database, tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    outbox.add_many([{"input": [0] * 1000}] * 500)
    assert sync(outbox, CloudClient(serving(), database.add_device("board"), timeout_s=60), {}).records == 500
    outbox.close()


def test_bodies_wait_packed_and_hold_up_nobody_else(
    serving: Serving, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow database must neither fill the memory with parsed bodies nor take every thread."""
    at_work, most = 0, 0
    counting, go_on = threading.Lock(), threading.Event()

    def slow(*_: Any) -> int:
        nonlocal at_work, most
        with counting:
            at_work += 1
            most = max(most, at_work)
        go_on.wait(60)
        with counting:
            at_work -= 1
        return 0

    monkeypatch.setattr(Database, "receive", slow)
    token, url = database.add_device("board"), serving()
    body = json.dumps({"status": {}, "records": []})
    codes: list[int] = []
    with httpx.Client(timeout=60, limits=httpx.Limits(max_connections=60)) as client:

        def send() -> None:
            reply = client.post(f"{url}/v1/sync", content=body, headers={"Authorization": f"Bearer {token}"})
            codes.append(reply.status_code)

        senders = [threading.Thread(target=send) for _ in range(60)]
        for sender in senders:
            sender.start()
        time.sleep(2)
        try:
            assert httpx.get(f"{url}/healthz", timeout=10).status_code == 200
        finally:
            go_on.set()
            for sender in senders:
                sender.join()
    assert codes == [200] * 60
    assert most == 8


def test_list_of_millions_is_refused_by_its_length(serving: Serving, database: Database) -> None:
    body = gzip.compress(b'{"status":{"a":[' + b",".join([b"[]"] * 5_500_000) + b"]}}")
    assert len(body) < 32 << 10
    reply = post(f"{serving()}/v1/sync", database.add_device("board"), body, **{"content-encoding": "gzip"})
    assert (reply.status_code, reply.json()["detail"]) == (413, "unpacks to more than 4194304 bytes")


def test_many_unknown_keys_are_refused_before_each_becomes_an_error() -> None:
    many = {f"k{n}": n for n in range(300_000)}
    records = [{"key": "a", "body": {}}, {"key": "b", "body": {}, **many}]
    for content in ({"status": {}, "records": [], **many}, {"status": {}, "records": records}):
        with pytest.raises(HTTPException, match=r"30000\d keys in one object; at most 16"):
            _parsed(SyncRequest, json.dumps(content).encode(), "identity")


def test_of_many_bad_records_the_first_fault_alone_is_kept() -> None:
    bad = {"status": {}, "records": [{"key": "", "wrong": n, "body": 3} for n in range(2000)]}
    with pytest.raises(HTTPException, match=r"records\.0") as caught:
        _parsed(SyncRequest, json.dumps(bad).encode(), "identity")
    cause = caught.value.__cause__
    assert isinstance(cause, ValidationError)
    assert cause.error_count() <= 3
