"""A disk without room, in one line, told where it is met: libraries report it in words of their own, if at all."""

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from errno import ENOSPC
from pathlib import Path

__all__ = ["full_among", "full_disk_line"]

_FULL_BELOW_BYTES = 100_000  # what a database, or a small model's file, may still find too little


def full_among(folders: Iterable[Path]) -> str | None:
    """What to tell where one of these folders lies on a full disk; None where all have room."""
    for folder in folders:
        with suppress(OSError):  # it may not be there yet
            if shutil.disk_usage(folder).free < _FULL_BELOW_BYTES:
                return full_disk_line(folder, os.strerror(ENOSPC))
    return None


def full_disk_line(path: Path, why: str) -> str:
    """What is full, and what to do."""
    return f"{path}: {why}; free some room there, and the same command goes on where it stopped"
