"""A cloud on loopback that misbehaves as told: real sockets, real time-outs."""

import gzip
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Reply = Callable[[str, dict[str, Any]], tuple[int, bytes] | None]


class Cloud:
    """``reply(path, content)`` gives status and body; None closes the connection without an answer."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.requests: list[dict[str, Any]] = []
        self.url = ""


@contextmanager
def serving(reply: Reply) -> Iterator[Cloud]:
    cloud = Cloud(reply)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            content = json.loads(body)
            cloud.requests.append(content)
            answer = cloud.reply(self.path, content)
            if answer is None:
                self.close_connection = True
                return
            self.send_response(answer[0])
            self.send_header("Content-Length", str(len(answer[1])))
            self.end_headers()
            self.wfile.write(answer[1])

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    cloud.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield cloud
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answering(**content: Any) -> Reply:
    return lambda _path, _content: (200, json.dumps(content).encode())


def slowly(seconds: float, then: Reply) -> Reply:
    def reply(path: str, content: dict[str, Any]) -> tuple[int, bytes] | None:
        time.sleep(seconds)
        return then(path, content)

    return reply
