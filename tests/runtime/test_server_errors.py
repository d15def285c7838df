"""What a server says where it answers with an error: one short line of plain text, whatever it sends."""

import http.server
import threading
from collections.abc import Iterator

import pytest

from edgewright_runtime.bundle.release import LINES_PATH, MAX_INDEX_BYTES
from edgewright_runtime.errors import TransportError
from edgewright_runtime.predict.cloud import CloudClient
from edgewright_runtime.strict_json import Fields
from edgewright_runtime.update.transport import Repository


class _Talking(http.server.BaseHTTPRequestHandler):
    """Answers whatever its ``reply`` is, from the status line on."""

    reply = b""

    def do_GET(self) -> None:
        self.wfile.write(self.reply)
        self.close_connection = True

    do_POST = do_GET  # noqa: N815 - the library's name

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Talking)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


FOUND = b"HTTP/1.1 302 Found\r\nLocation: "


@pytest.mark.parametrize(
    "reply",
    [
        FOUND + b"/again\r\n\r\n",
        FOUND + b"\r\n\r\n",
        FOUND + b"http://[::1\r\n\r\n",
        FOUND + b"http://127.0.0.1:99999999/x\r\n\r\n",
        FOUND + b"http://" + b"a" * 60_000 + b"/\r\n\r\n",
        FOUND + b"a" * 60_000 + b"://x/\r\n\r\n",
        b"HTTP/1.1 500 \x1b[31m" + b"m" * 60_000 + b"\r\n\r\n",
        b"HTTP/1.1 404 a\x1b]0;title\x07\r\nContent-Length: 9\r\n\r\n\x1b[31mno\r\n",
        b"\x1b[31m" + b"n" * 60_000 + b"\r\n\r\n",
    ],
    ids=["loop", "empty", "address", "port", "host", "scheme", "reason", "colours", "no-status"],
)
def test_error_of_a_server_is_one_short_plain_line(url: str, monkeypatch: pytest.MonkeyPatch, reply: bytes) -> None:
    monkeypatch.setattr(_Talking, "reply", reply)
    for ask in (
        lambda: Repository(url).read(LINES_PATH, MAX_INDEX_BYTES),
        lambda: CloudClient(url, "token", attempts=1).post("/v1/sync", {}, Fields.rest),
    ):
        with pytest.raises(TransportError) as caught:
            ask()
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 700
