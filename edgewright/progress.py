"""Who is told what runs now: the command line shows it as a progress bar, everything else ignores it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress"]

Listener = Callable[[str, bool], None]


class Progress:
    """Announces the begin and end of each step to its listeners."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Call ``listener(title, done)`` for each step inside."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    @contextmanager
    def during(self, title: str) -> Iterator[None]:
        """Announce a step that runs inside this block."""
        self._announce(title, done=False)
        try:
            yield
        finally:
            self._announce(title, done=True)

    def _announce(self, title: str, *, done: bool) -> None:
        for listener in self._listeners:
            listener(title, done)


progress = Progress()
