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
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Collection
from typing import Any

from edgewright_runtime.errors import TransportError

__all__ = ["Reply", "opened", "opener", "plain_line"]

_PORTS = {"http": 80, "https": 443}
_MAX_SAID = 300


def opener(
    *, grace_s: float, bytes_per_s: float = math.inf, redirect_hosts: Collection[str] | None = None
) -> urllib.request.OpenerDirector:
    """An opener whose replies end in `TimeoutError` after ``grace_s`` and a second more for ``bytes_per_s`` received.

    A redirection is followed within the same origin, to its TLS, and to ``redirect_hosts``, from TLS to TLS alone;
    any other is an `URLError`. Where ``redirect_hosts`` is None each is an `HTTPError`: headers, a token among them,
    go nowhere.
    """
    connect = functools.partial(_connection, grace_s=grace_s, bytes_per_s=bytes_per_s)
    redirects = _NoRedirect() if redirect_hosts is None else _KnownRedirects(redirect_hosts)
    return urllib.request.build_opener(_Http(connect), _Https(connect), redirects)


def plain_line(message: object) -> str:
    """The beginning of what a server said, as one line that a terminal can show."""
    text = str(message)[:_MAX_SAID]
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


class Reply:
    """The body of a server's reply; whatever breaks it off is an `OSError`."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def read1(self, size: int) -> bytes:
        """At most ``size`` bytes, as soon as there are any; none at the end."""
        try:
            chunk: bytes = self._response.read1(size)
        except http.client.HTTPException as e:
            raise OSError(plain_line(e) or type(e).__name__) from e
        return chunk

    def close(self) -> None:
        """Close the connection."""
        self._response.close()


def opened(url: str, timeout_s: float, *, grace_s: float, bytes_per_s: float, redirect_hosts: Collection[str]) -> Reply:
    """The reply to a request of an address (http or https); see `opener`.

    Raises:
        TransportError: the server answered that it has no such file, or with another error.
        OSError: no answer, too slow, or a redirection that is not followed.
    """
    paced = opener(grace_s=grace_s, bytes_per_s=bytes_per_s, redirect_hosts=redirect_hosts)
    try:
        return Reply(paced.open(urllib.request.Request(url), timeout=timeout_s))  # noqa: S310 - http(s) only
    except urllib.error.HTTPError as e:
        # The error is the reply, and holds the socket.
        with e:
            raise TransportError(f"{url}: the server answered {e.code} {plain_line(e.reason)}") from e
    except http.client.HTTPException as e:
        raise OSError(plain_line(e) or type(e).__name__) from e


def _connection(kind: Any, host: str, *, grace_s: float, bytes_per_s: float, **options: Any) -> Any:
    connection = kind(host, **options)
    connection.response_class = functools.partial(_Response, grace_s=grace_s, bytes_per_s=bytes_per_s)
    return connection


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


class _Redirects(urllib.request.HTTPRedirectHandler):
    """The library's own, which closes only the replies that it follows."""

    def http_error_302(self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except urllib.error.HTTPError:  # it holds the reply, which may still be read
            raise
        except (OSError, ValueError):
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _NoRedirect(_Redirects):
    def redirect_request(self, *_: Any) -> None:
        # urllib then raises the redirection as an HTTPError.
        return None


class _KnownRedirects(_Redirects):
    def __init__(self, hosts: Collection[str]) -> None:
        self._hosts = {host.lower() for host in hosts}

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        self._require_known(req.full_url, newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def _require_known(self, asked: str, target: str) -> None:
        before, after = urllib.parse.urlsplit(asked), urllib.parse.urlsplit(target)
        # Never from TLS to plain text, whatever the host.
        schemes = {"https"} if before.scheme == "https" else {"http", "https"}
        if after.scheme not in schemes:
            kind = plain_line(after.scheme)
            raise urllib.error.URLError(f"it redirects from {before.scheme} to '{kind}', which is not followed")
        ports = before.port or _PORTS[before.scheme], after.port or _PORTS[after.scheme]
        # http on any port to https on its standard one: how a server moves its clients to TLS.
        moves_to_tls = before.scheme == "http" and after.scheme == "https" and ports[1] == _PORTS["https"]
        is_same = before.hostname == after.hostname and (ports[0] == ports[1] or moves_to_tls)
        if not is_same and after.hostname not in self._hosts:
            raise urllib.error.URLError(
                f"it redirects to {plain_line(after.netloc)}; followed are redirections to {before.netloc} itself and"
                " to hosts that are named (--redirect-host)"
            )


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, grace_s: float, bytes_per_s: float, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        # Exchanged before anything is read: headers are paced, too, and the buffer that is dropped holds nothing.
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
        # One read may wait for what is left of the whole reply's time, and no longer than the socket's own.
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
