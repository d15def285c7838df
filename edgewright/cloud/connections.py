"""Clients that are slow, or many: none may keep the others from being served, nor hold what it took for ever."""

import asyncio
import resource

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["BoundedConnection", "server"]

# A device gives up after 5 s; whoever takes longer trickles, or does not read.
_EXCHANGE_S = 30.0
# Shares of the process's file descriptors. The event loop takes up to four times the backlog before a connection can
# be refused; what is left is the database's and the repository's.
_CONNECTIONS_SHARE, _BACKLOG_SHARE = 2, 16
_MOST_CONNECTIONS, _MOST_BACKLOG = 10_000, 2048


class BoundedConnection(H11Protocol):
    """A client's connection; one exchange, from its first byte to the last of the answer, has `_EXCHANGE_S`.

    Where there are as many as the process can serve, a new one takes the place of the one whose request has been
    incomplete for longest; where all requests are whole, it is the new one that has to come again.
    """

    _deadline: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Take a client, or refuse it."""
        super().connection_made(transport)
        self._deadline = self.loop.call_later(_EXCHANGE_S, transport.abort)
        if len(self.connections) > _most_connections():
            self._longest_incomplete().transport.abort()

    def on_response_complete(self) -> None:
        """Begin the next exchange."""
        self._deadline.cancel()
        self._deadline = self.loop.call_later(_EXCHANGE_S, self.transport.abort)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self._deadline.cancel()
        super().connection_lost(exc)

    def _longest_incomplete(self) -> "BoundedConnection":
        others = [other for other in self.connections if isinstance(other, BoundedConnection)]
        waiting = [other for other in others if other is not self and other._is_incomplete()]
        return min(waiting, key=lambda other: other._deadline.when(), default=self)

    def _is_incomplete(self) -> bool:
        if self.transport.is_closing():
            return False
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body


def server(app: FastAPI, host: str, port: int) -> uvicorn.Server:
    """A server of the application whose clients are bounded in time and number."""
    backlog = min(_descriptors() // _BACKLOG_SHARE, _MOST_BACKLOG)
    config = uvicorn.Config(
        app, host=host, port=port, http=BoundedConnection, ws="none", backlog=backlog, log_level="warning"
    )
    return uvicorn.Server(config)


def _most_connections() -> int:
    return min(_descriptors() // _CONNECTIONS_SHARE, _MOST_CONNECTIONS)


def _descriptors() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else _MOST_CONNECTIONS * _CONNECTIONS_SHARE
