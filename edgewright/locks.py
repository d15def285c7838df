"""File locks: they work between processes and threads without a server, and die with their holder."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgewright_runtime.disk import make_folder

__all__ = ["locked"]


@contextmanager
def locked(path: Path, *, wait: bool = True, shared: bool = False) -> Iterator[bool]:
    """Hold the lock of this file, ``shared`` with others that do; without ``wait`` the block runs at once, and is told
    False where another holds it.
    """
    make_folder(path.parent)
    # Never removed: whoever held the lock of a removed file would exclude nobody who makes it anew.
    with path.open("ab") as lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
            is_held = True
        except BlockingIOError:
            is_held = False
        # Not within `except`: what fails in the block has nothing to do with another's lock.
        yield is_held
