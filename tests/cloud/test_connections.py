"""Clients that trickle, do not read, or are too many: the others are served meanwhile, and the slow are cut off."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from edgewright.cloud import connections
from edgewright.cloud.database import Database
from edgewright_runtime.errors import TransportError
from edgewright_runtime.predict.cloud import Breaker, CloudClient
from edgewright_runtime.strict_json import Fields

pytestmark = pytest.mark.filterwarnings("ignore:websockets.*:DeprecationWarning")

Serving = Callable[..., str]
HEAD = b"POST /v1/sync HTTP/1.1\r\nHost: cloud\r\nAuthorization: Bearer "


@pytest.fixture
def opened() -> Iterator[Callable[..., socket.socket]]:
    """Opens a connection to a server and sends what is given."""
    with ExitStack() as stack:

        def open_one(url: str, sent: bytes = b"", receive_bytes: int | None = None) -> socket.socket:
            found = stack.enter_context(socket.socket())
            if receive_bytes is not None:
                found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            found.settimeout(20)
            found.connect(("127.0.0.1", int(url.rpartition(":")[2])))
            found.sendall(sent)
            return found

        yield open_one


def is_open(client: socket.socket, wait_s: float = 0.1) -> bool:
    client.settimeout(wait_s)
    try:
        return client.recv(1 << 16) != b""
    except TimeoutError:
        return True
    except OSError:
        return False


def is_cut_off(client: socket.socket, trickle: bytes = b"") -> bool:
    """Whether the server ends this connection, whatever is still sent a byte at a time."""
    try:
        for byte in trickle:
            client.sendall(bytes([byte]))
            if not is_open(client, 0.05):
                return True
    except OSError:
        return True
    return not is_open(client, 10.0)


@pytest.mark.parametrize("where", ["nothing", "headers", "body"])
def test_clients_that_trickle_are_cut_off_while_others_are_served(
    serving: Serving,
    database: Database,
    opened: Callable[..., socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    monkeypatch.setattr(connections, "_EXCHANGE_S", 1.0)
    token, url = database.add_device("board"), serving()
    headers = HEAD + token.encode() + b"\r\nContent-Length: 100000\r\n\r\n"
    sent = {"nothing": b"", "headers": HEAD, "body": headers + b'{"status'}[where]
    slow = [opened(url, sent) for _ in range(30)]

    synced = CloudClient(url, token).post("/v1/sync", {"status": {}, "records": []}, Fields.rest)["confirmed"]

    assert synced == []
    assert is_cut_off(slow[0], b"x" * 100)
    assert all(is_cut_off(client) for client in slow[1:])
    assert httpx.get(f"{url}/healthz").status_code == 200


def test_client_that_never_reads_its_answer_is_cut_off(
    serving: Serving, database: Database, opened: Callable[..., socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is larger than what the two sockets' buffers hold."""
    monkeypatch.setattr(connections, "_EXCHANGE_S", 1.0)
    for number in range(20):
        database.add_device(f"board-{number}")
        database.receive(f"board-{number}", {"text": "x" * 500_000}, [])
    url, operator = serving(), database.add_operator("o")
    asked = f"GET /v1/devices HTTP/1.1\r\nHost: c\r\nAuthorization: Bearer {operator}\r\n\r\n".encode()
    deaf = [opened(url, asked, receive_bytes=4096) for _ in range(3)]

    assert httpx.get(f"{url}/healthz").status_code == 200
    for client in deaf:
        assert not arrives_whole(client), "what is left of the answer is thrown away"


def arrives_whole(client: socket.socket) -> bool:
    time.sleep(2.0)
    received = 0
    try:
        while block := client.recv(1 << 20):
            received += len(block)
    except OSError:
        pass
    return received > 20 * 500_000


def test_exchanges_of_one_connection_have_their_time_each(
    serving: Serving, opened: Callable[..., socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_EXCHANGE_S", 1.0)
    client = opened(serving())
    for _ in range(4):
        time.sleep(0.4)
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: cloud\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += client.recv(4096)
        assert answer.startswith(b"HTTP/1.1 200")


def test_client_does_not_pay_for_a_slow_server(
    serving: Serving, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_EXCHANGE_S", 0.3)
    monkeypatch.setattr(database, "ping", lambda: time.sleep(1.0))
    assert httpx.get(f"{serving()}/healthz").status_code == 200


def test_beyond_the_most_connections_the_longest_incomplete_makes_room(
    serving: Serving, database: Database, opened: Callable[..., socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_most_connections", lambda: 10)
    token, url = database.add_device("board"), serving()
    first, *others = [opened(url, HEAD) for _ in range(10)]

    for _ in range(3):
        CloudClient(url, token, attempts=1).post("/v1/sync", {"status": {}, "records": []}, Fields.rest)

    assert is_cut_off(first)
    assert all(is_open(client) for client in others[-3:])


_WITH_64_DESCRIPTORS = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from edgewright.cloud.app import create_app
from edgewright.cloud.connections import server
from edgewright.cloud.database import Database
running = server(create_app(Database(sys.argv[1])), "127.0.0.1", 0)
startup = running.startup
async def told(sockets=None):
    await startup(sockets)
    print(running.servers[0].sockets[0].getsockname()[1], flush=True)
running.startup = told
running.run()
"""


def test_more_clients_than_descriptors_lose_nothing_and_are_served_in_the_end(
    tmp_path: Path, database: Database, opened: Callable[..., socket.socket]
) -> None:
    command = [sys.executable, "-c", _WITH_64_DESCRIPTORS, f"sqlite:///{tmp_path / 'cloud.db'}"]
    tokens = [database.add_device(f"board-{number}") for number in range(30)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"
        idle = [opened(url, HEAD) for _ in range(100)]

        def deliver(number: int) -> list[str] | None:
            client = CloudClient(url, tokens[number], breaker=Breaker(failures=10**9))
            content = {"status": {}, "records": [{"key": f"{number}", "body": {"kind": "prediction"}}]}
            for _ in range(20):  # rounds of upkeep
                with suppress(TransportError):
                    return client.post("/v1/sync", content, Fields.rest)["confirmed"]
            return None

        with ThreadPoolExecutor(30) as pool:
            confirmed = list(pool.map(deliver, range(30)))
        for client in idle:
            client.close()
        health = httpx.get(f"{url}/healthz").status_code
        process.terminate()
        _, said = process.communicate(timeout=60)

    assert confirmed == [[f"{number}"] for number in range(30)]
    assert database.count("prediction") == 30
    assert health == 200
    assert "Traceback" not in said, said
