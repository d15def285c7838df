"""Networks as devices meet them: the server's count must equal the device's, exactly."""

import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from edgewright_runtime.cloud import Breaker, CloudClient
from edgewright_runtime.errors import EdgeRuntimeError, IntegrityError, TransportError
from edgewright_runtime.offline import sync
from edgewright_runtime.outbox import Outbox
from tests.runtime.loopback import Cloud, serving


class Relay:
    """A TCP relay that delays every piece, breaks connections at random, and can be switched off."""

    def __init__(self, port: int, *, delay_s: float = 0.0, loss: float = 0.0, seed: int = 1) -> None:
        self._port, self._delay_s, self._loss = port, delay_s, loss
        self._chance = random.Random(seed)
        self.up = True
        self.broken = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if not self.up:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._port))
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(4096):
                time.sleep(self._delay_s)
                if not self.up or self._chance.random() < self._loss:
                    self.broken += 1
                    break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


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
    ("delay_s", "loss"), [(0.0, 0.0), (0.06, 0.02), (0.0, 0.3)], ids=["good", "slow and lossy", "very lossy"]
)
def test_servers_count_equals_the_devices(
    tmp_path: Path, server: Cloud, ledger: Ledger, delay_s: float, loss: float
) -> None:
    relay = Relay(int(server.url.rpartition(":")[2]), delay_s=delay_s, loss=loss)
    outbox = Outbox(tmp_path / "o.db")
    outbox.add_many([{"n": n} for n in range(3000)])

    drain(outbox, client(relay))
    relay.close()

    assert sorted(body["n"] for body in ledger.counted.values()) == list(range(3000))
    assert outbox.counters()["added"] == len(ledger.counted)
    assert (relay.broken > 0) == (loss > 0.1) or loss == 0.02


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
            cloud.post("/v1/predict", {})

    with pytest.raises(TransportError, match="not asked"):
        cloud.post("/v1/predict", {})
