"""A network between a device and its server: a TCP relay on loopback that delays, loses, breaks off and can be cut."""

import random
import socket
import threading
import time
from contextlib import suppress

__all__ = ["Relay"]

_SEGMENT_BYTES = 1460  # of Ethernet
_RETRANSMISSION_S = 1.0  # TCP's first time-out where no round trip is known (RFC 6298)


class Relay:
    """Forwards connections to ``port`` while `up`.

    Each piece takes ``delay_s`` one way. A share ``loss`` of the pieces is lost: every second time its retransmission
    arrives a second later, else the connection breaks. A share ``lost_answers`` of the connections is cut when the
    server's answer is on its way, so after it has done what was asked.
    """

    def __init__(
        self, port: int, *, delay_s: float = 0.0, loss: float = 0.0, lost_answers: float = 0.0, seed: int = 1
    ) -> None:
        self._port, self._delay_s, self._loss, self._lost_answers = port, delay_s, loss, lost_answers
        self._chance = random.Random(seed)
        self._up = True
        self._open: set[socket.socket] = set()
        self.broken = self.stalled = self.answers_lost = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def up(self) -> bool:
        """Whether the network is there; cutting it breaks what is open."""
        return self._up

    @up.setter
    def up(self, up: bool) -> None:
        self._up = up
        if not up:
            for end in list(self._open):
                _shut(end)

    def close(self) -> None:
        """Accept nothing more."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if not self.up:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._port))
                self._open |= {near, far}
                loses_answer = self._chance.random() < self._lost_answers
                for source, target, loses in ((near, far, False), (far, near, loses_answer)):
                    threading.Thread(target=self._pump, args=(source, target, loses), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, loses: bool) -> None:
        with suppress(OSError):
            while data := source.recv(_SEGMENT_BYTES):
                time.sleep(self._delay_s)
                if loses:
                    self.answers_lost += 1
                    break
                if not self.up or not self._arrives():
                    self.broken += 1
                    break
                target.sendall(data)
        for end in (source, target):
            _shut(end)
            self._open.discard(end)

    def _arrives(self) -> bool:
        if self._chance.random() >= self._loss:
            return True
        if self._chance.random() < 0.5:
            return False
        self.stalled += 1
        time.sleep(_RETRANSMISSION_S)
        return True


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
