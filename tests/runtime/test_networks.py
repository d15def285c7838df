"""Networks as devices meet them: the server's count must equal the device's, exactly."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from benchmarks.networks import run
from edgewright_runtime.errors import EdgeRuntimeError, IntegrityError, TransportError
from edgewright_runtime.health.outbox import Outbox
from edgewright_runtime.predict.cloud import Breaker, CloudClient
from edgewright_runtime.predict.offline import sync
from edgewright_runtime.strict_json import Fields
from tests.runtime.loopback import Cloud, serving
from tests.runtime.relay import Relay


class Ledger:
    """Counts each key once."""

    def __init__(self) -> None:
        self.counted: dict[str, Any] = {}
        self.received = 0
        self._lock = threading.Lock()

    def __call__(self, _path: str, content: dict[str, Any]) -> tuple[int, bytes]:
        with self._lock:
            for record in content["records"]:
                self.received += 1
                self.counted.setdefault(record["key"], record["body"])
        return 200, json.dumps({"confirmed": [r["key"] for r in content["records"]], "offer": None}).encode()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def server(ledger: Ledger) -> Iterator[Cloud]:
    with serving(ledger) as cloud:
        yield cloud


def client(relay: Relay) -> CloudClient:
    return CloudClient(
        relay.url, "t", timeout_s=2, attempts=2, breaker=Breaker(pause_s=0.05), pause=lambda _: time.sleep(0.01)
    )


def drain(outbox: Outbox, cloud: CloudClient) -> None:
    """Try to sync until it is done; every failure is one that a device expects."""
    deadline = time.monotonic() + 60
    while outbox.counters()["waiting"]:
        assert time.monotonic() < deadline, "the outbox does not empty"
        with suppress(TransportError, IntegrityError):
            sync(outbox, cloud, {})
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("profile", "happened"),
    [
        ({}, None),
        ({"delay_s": 0.03, "loss": 0.02}, None),
        ({"loss": 0.1}, "broken"),
        ({"lost_answers": 0.5}, "answers_lost"),
    ],
    ids=["good", "slow and lossy", "very lossy", "answers lost after the commit"],
)
def test_servers_count_equals_the_devices(
    tmp_path: Path, server: Cloud, ledger: Ledger, profile: dict[str, float], happened: str | None
) -> None:
    relay = Relay(int(server.url.rpartition(":")[2]), **profile)
    outbox = Outbox(tmp_path / "o.db")
    outbox.add_many([{"n": n} for n in range(1000)])

    drain(outbox, client(relay))
    relay.close()

    assert sorted(body["n"] for body in ledger.counted.values()) == list(range(1000))
    assert outbox.counters()["added"] == len(ledger.counted)
    assert happened is None or getattr(relay, happened) > 0
    assert ledger.received > 1000 or happened != "answers_lost", "no batch came twice"


def test_profiles_of_the_benchmark_count_exactly(tmp_path: Path) -> None:
    results = run(tmp_path, phase_s=2.0)

    assert set(results) == {"offline", "five_minutes", "lossy", "lost_answers"}
    for result in results.values():
        assert (result.lost, result.twice, result.still_waiting) == (0, 0, 0)
        assert result.server_count == result.logged > 5
    assert results["offline"].failed_syncs or results["five_minutes"].failed_syncs


def test_network_that_comes_and_goes_while_the_device_logs(tmp_path: Path, server: Cloud, ledger: Ledger) -> None:
    relay = Relay(int(server.url.rpartition(":")[2]))
    outbox = Outbox(tmp_path / "o.db")
    cloud = client(relay)
    ended = threading.Event()
    errors: list[EdgeRuntimeError] = []

    def upkeep() -> None:
        while not ended.wait(0.02):
            try:
                sync(outbox, cloud, {})
            except (TransportError, IntegrityError) as e:
                errors.append(e)

    thread = threading.Thread(target=upkeep)
    thread.start()
    for n in range(400):
        relay.up = (n // 50) % 2 == 0
        outbox.add({"n": n})
    ended.set()
    thread.join()
    relay.up = True
    drain(outbox, cloud)
    relay.close()

    assert errors, "the network was never away"
    assert sorted(body["n"] for body in ledger.counted.values()) == list(range(400))


def test_device_in_use_while_the_network_is_down_is_not_slowed(tmp_path: Path) -> None:
    breaker = Breaker(failures=2, pause_s=3600)
    cloud = CloudClient("http://127.0.0.1:9", "t", attempts=1, breaker=breaker)
    for _ in range(2):
        with pytest.raises(TransportError, match="no answer"):
            cloud.post("/v1/predict", {}, Fields.rest)

    with pytest.raises(TransportError, match="not asked"):
        cloud.post("/v1/predict", {}, Fields.rest)
