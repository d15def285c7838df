"""Scratch folders that do not outlive their process: what a killed one left is removed by the next that needs one.

Each folder has a lock file beside it, held for as long as its process lives, however that ends.
"""

import fcntl
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgewright.errors import InputError
from edgewright.locks import locked

__all__ = ["abandoned", "remove_abandoned", "scratch_folder", "system_scratch"]

_CHANGING = ".lock"


def system_scratch() -> Path:
    """This user's own folder among the system's temporary ones, for what belongs to no home.

    Raises:
        InputError: its name is taken, by somebody else or by what is not a folder.
    """
    folder = Path(tempfile.gettempdir()) / f"edgewright-{os.getuid()}"
    # Anyone may make this name in /tmp first: what is there, and whose, is looked at after, without following a link.
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    status = folder.lstat()
    if status.st_uid != os.getuid():
        raise InputError(f"{folder} belongs to somebody else; name another folder for temporary files in TMPDIR")
    if not stat.S_ISDIR(status.st_mode):
        raise InputError(f"{folder} is not a folder; remove it, or name another for temporary files in TMPDIR")
    return folder


@contextmanager
def scratch_folder(below: Path) -> Iterator[Path]:
    """An empty folder below this one, removed at the end whatever happens."""
    folder = below / uuid.uuid4().hex[:12]
    with _changing(below):
        _remove(abandoned(below))
        # The lock before the folder: a folder without one counts as abandoned.
        held = _lock_file(folder).open("ab")
        fcntl.flock(held, fcntl.LOCK_EX)
        folder.mkdir()
    with held:
        try:
            yield folder
        finally:
            _remove([folder])


def remove_abandoned(below: Path) -> list[Path]:
    """Remove what killed processes left below a folder for scratch folders; returns what was removed."""
    if not below.is_dir():
        return []
    with _changing(below):
        folders = abandoned(below)
        _remove(folders)
    return [path for path in folders if not path.exists()]


def abandoned(below: Path) -> list[Path]:
    """The scratch folders below this one whose process has ended."""
    folders = [path for path in below.iterdir() if path.is_dir()] if below.is_dir() else []
    return [folder for folder in sorted(folders) if not _is_held(_lock_file(folder))]


def _remove(folders: list[Path]) -> None:
    for folder in folders:
        # What cannot be removed now, as where an orphan still writes, is removed by a later run; it harms none.
        shutil.rmtree(folder, ignore_errors=True)
        _lock_file(folder).unlink(missing_ok=True)


@contextmanager
def _changing(below: Path) -> Iterator[None]:
    """Nobody else makes or removes scratch folders here: one that has no lock yet would look abandoned."""
    with locked(below / _CHANGING):
        yield


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _is_held(path: Path) -> bool:
    try:
        lock = path.open("r+b")
    except FileNotFoundError:
        return False
    except PermissionError:
        return True  # another user's: not ours to judge
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
