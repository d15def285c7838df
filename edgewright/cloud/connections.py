"""Clients that are slow, or many: none may keep the others from being served, nor hold what it took for ever."""

import asyncio
import errno
import logging
import os
import resource
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["BoundedConnection", "server"]

_log = logging.getLogger("uvicorn.error")
# A device gives up after 5 s; whoever takes longer trickles, or does not read.
_EXCHANGE_S = 30.0
# Shares of the process's file descriptors. The event loop takes up to four times the backlog before a connection can
# be refused; what is left is the database's and the repository's.
_CONNECTIONS_SHARE, _BACKLOG_SHARE = 2, 16
_MAX_CONNECTIONS, _MAX_BACKLOG, _MAX_WAITING = 10_000, 256, 2048


class BoundedConnection(H11Protocol):
    """A client's connection; one exchange, from its first byte to the last of the answer, has `_EXCHANGE_S`; what
    the server itself takes does not count.

    Where there are as many as the process can serve, a new one takes the place of the one whose request has been
    incomplete for longest; where all requests are whole, it is the new one that has to come again.
    """

    _deadline: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Take a client, or refuse it."""
        super().connection_made(transport)
        self._deadline = self.loop.call_later(_EXCHANGE_S, self._end_slow_exchange)
        # The new one is among them already: uvicorn adds it in connection_made.
        if len(self.connections) > _most_connections():
            # abort, not close: close would first wait to send what a deaf client does not read.
            self._longest_incomplete().transport.abort()

    def on_response_complete(self) -> None:
        """Begin the next exchange."""
        self._deadline.cancel()
        self._deadline = self.loop.call_later(_EXCHANGE_S, self._end_slow_exchange)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self._deadline.cancel()
        super().connection_lost(exc)

    def _end_slow_exchange(self) -> None:
        # Still closing after its time: the client does not read what is left to send.
        if self._is_incomplete() or self.transport.is_closing() or self.cycle.response_started:
            self.transport.abort()
        else:  # it is the server that is slow
            self._deadline = self.loop.call_later(_EXCHANGE_S, self._end_slow_exchange)

    def _longest_incomplete(self) -> "BoundedConnection":
        others = [other for other in self.connections if isinstance(other, BoundedConnection)]
        waiting = [other for other in others if other is not self and other._is_incomplete()]
        # The deadline that comes first was set first.
        return min(waiting, key=lambda other: other._deadline.when(), default=self)

    def _is_incomplete(self) -> bool:
        if self.transport.is_closing():
            return False
        # uvicorn's cycle is one request with its answer: none yet, a past one, or one whose body is still to come.
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body


def server(app: FastAPI, host: str, port: int) -> uvicorn.Server:
    """A server of the application whose clients are bounded in time and number."""
    backlog = max(1, min(_descriptors() // _BACKLOG_SHARE, _MAX_BACKLOG))
    config = uvicorn.Config(
        app, host=host, port=port, http=BoundedConnection, ws="none", backlog=backlog, log_level="warning"
    )
    return _Server(config)


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # Here, since the loop is uvicorn's own and runs only now.
        asyncio.get_running_loop().set_exception_handler(_told)
        await super().startup(sockets)
        for listener in (sock for running in self.servers for sock in running.sockets):
            # The loop takes as many clients at once as its backlog; more of them may wait in the kernel.
            # asyncio's wrapper has no listen(); a second one on the same socket changes the length of its queue.
            with socket.socket(fileno=os.dup(listener.fileno())) as same:
                same.listen(_MAX_WAITING)


def _told(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """One line, not a traceback for each client that finds no descriptor: the loop takes it a second later."""
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}:
        _log.warning("clients wait: %s", error.strerror)
    else:
        loop.default_exception_handler(context)


def _most_connections() -> int:
    return min(_descriptors() // _CONNECTIONS_SHARE, _MAX_CONNECTIONS)


def _descriptors() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else _MAX_CONNECTIONS * _CONNECTIONS_SHARE
