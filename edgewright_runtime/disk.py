"""Files and folders that a power cut leaves whole: as they were, or as they became."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

__all__ = ["discard", "kept_once", "make_folder", "sync_folder", "write_durably"]


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each in a way that its name survives a power cut; one that is there is fine."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)  # another process may have been faster
        sync_folder(new.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file so that a power cut leaves the old content or the new; nobody reads it with more than ``mode``."""
    staged = path.with_name(f".{path.name}.part")
    staged.unlink(missing_ok=True)  # one that a kill left keeps its own mode
    with open(staged, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    staged.replace(path)
    sync_folder(path.parent)


def kept_once(path: Path, make: Callable[[], bytes], mode: int = 0o644) -> bytes:
    """The content of a file that is made when it is first needed, by one of the processes that need it."""
    if not path.exists():
        make_folder(path.parent)
        with path.with_name(f".{path.name}.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                write_durably(path, make(), mode)
    return path.read_bytes()


def discard(folder: Path) -> None:
    """Delete a folder so that it is either whole or gone; what a crash leaves has a hidden name."""
    hidden = folder if folder.name.startswith(".") else folder.with_name(f".{folder.name}.gone")
    if hidden != folder:
        if hidden.exists():
            shutil.rmtree(hidden)
        folder.replace(hidden)
        sync_folder(folder.parent)
    shutil.rmtree(hidden)
