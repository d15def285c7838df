"""Opening an address by http(s) so that no server can hold a device: the whole reply must keep up, headers and all.

A socket's own time-out begins anew with every byte.
"""

from __future__ import annotations

import functools
import http.client
import io
import math
import socket
import time
import urllib.request
from typing import Any

__all__ = ["opener"]


def opener(
    *, grace_s: float, bytes_per_s: float = math.inf, follow_redirects: bool = True
) -> urllib.request.OpenerDirector:
    """An opener whose replies end in `TimeoutError` after ``grace_s`` and a second more for ``bytes_per_s`` received.

    Without ``follow_redirects`` a redirection is an `HTTPError`: its headers, a token among them, go nowhere else.
    """
    connect = functools.partial(_connection, grace_s=grace_s, bytes_per_s=bytes_per_s)
    handlers: list[Any] = [_Http(connect), _Https(connect)]
    if not follow_redirects:
        handlers.append(_NoRedirect())
    return urllib.request.build_opener(*handlers)


def _connection(kind: Any, host: str, *, grace_s: float, bytes_per_s: float, **options: Any) -> Any:
    made = kind(host, **options)
    made.response_class = functools.partial(_Response, grace_s=grace_s, bytes_per_s=bytes_per_s)
    return made


class _Http(urllib.request.HTTPHandler):
    def __init__(self, connect: Any) -> None:
        super().__init__()
        self._connect = connect

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(functools.partial(self._connect, http.client.HTTPConnection), req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, connect: Any) -> None:
        super().__init__()
        self._connect = connect

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(functools.partial(self._connect, http.client.HTTPSConnection), req)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, grace_s: float, bytes_per_s: float, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp: Any = io.BufferedReader(_Paced(self.fp.detach(), sock, grace_s, bytes_per_s))


class _Paced(io.RawIOBase):
    """The bytes of a socket, as long as they come fast enough."""

    def __init__(self, raw: Any, sock: socket.socket, grace_s: float, bytes_per_s: float) -> None:
        self._raw, self._sock = raw, sock
        self._grace_s, self._bytes_per_s = grace_s, bytes_per_s
        self._timeout_s = sock.gettimeout() or math.inf
        self._began, self._received = time.monotonic(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Any:
        seconds = time.monotonic() - self._began
        left_s = self._grace_s + self._received / self._bytes_per_s - seconds
        if left_s <= 0:
            raise TimeoutError(f"too slow: {self._received} bytes in {seconds:.1f} s")
        self._sock.settimeout(min(left_s, self._timeout_s))
        try:
            count = self._raw.readinto(buffer)
        except socket.timeout as e:  # TimeoutError is another class before Python 3.10
            waited = time.monotonic() - self._began
            raise TimeoutError(f"too slow: {self._received} bytes in {waited:.1f} s") from e
        self._received += count or 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
