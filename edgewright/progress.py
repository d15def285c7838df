"""Who is told what runs now: the command line shows it as a progress bar, everything else ignores it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

__all__ = ["Announcement", "progress"]


class Announcement(NamedTuple):
    """A stage of the pipeline, or a step inside one, that begins or has ended; or a ``note``: something to be told."""

    title: str
    done: bool
    stage: bool = False
    note: bool = False


Listener = Callable[[Announcement], None]


class Progress:
    """Announces the begin and end of each stage and step, and what else is to be told, to its listeners."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Call ``listener`` with each event inside this block."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    @contextmanager
    def during(self, title: str, *, stage: bool = False) -> Iterator[None]:
        """Announce what runs inside this block."""
        self._announce(Announcement(title, done=False, stage=stage))
        try:
            yield
        finally:
            self._announce(Announcement(title, done=True, stage=stage))

    def note(self, text: str) -> None:
        """Tell something that the user should know though nothing failed, as that a damaged file was replaced."""
        self._announce(Announcement(text, done=True, note=True))

    def _announce(self, event: Announcement) -> None:
        for listener in self._listeners:
            listener(event)


progress = Progress()
