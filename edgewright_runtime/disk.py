"""Files and folders that a power cut leaves whole: as they were, or as they became."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = [
    "check_plain",
    "discard",
    "kept_once",
    "lock_file",
    "make_folder",
    "make_own_folder",
    "open_lock",
    "read_plain",
    "remove",
    "set_aside",
    "sync_folder",
    "write_durably",
]

_MAX_KEPT_BYTES = 4096


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each in a way that its name survives a power cut; one that is there is fine."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)  # another process may have been faster
        sync_folder(new.parent)


def make_own_folder(folder: Path) -> None:
    """Make a folder where nobody else keeps anything: what stands in its place is set aside."""
    if os.path.lexists(folder) and not folder.is_dir():
        set_aside(folder)
    make_folder(folder)


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
    remove(staged)  # one that a kill left keeps its own mode
    with open(staged, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    # A file cannot take a folder's name; a link to a folder is replaced as a link.
    if path.is_dir() and not path.is_symlink():
        set_aside(path)
    staged.replace(path)
    # The file's content is on the disk by now, its name only with this.
    sync_folder(path.parent)


def kept_once(path: Path, make: Callable[[], bytes], mode: int = 0o644) -> bytes:
    """The content of a file that is made when it is first needed, by one of the processes that need it.

    What stands in its place, but is not such a file, is set aside.
    """
    if (content := _kept(path)) is not None:
        return content
    make_folder(path.parent)
    with lock_file(path.with_name(f".{path.name}.lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Again, under the lock: another process may have made it while this one waited.
        if _kept(path) is None:
            if os.path.lexists(path):
                set_aside(path)
            write_durably(path, make(), mode)
    return read_plain(path, _MAX_KEPT_BYTES)


def _kept(path: Path) -> bytes | None:
    try:
        return read_plain(path, _MAX_KEPT_BYTES)
    except (FileNotFoundError, _NotPlainError):
        return None


class _NotPlainError(OSError):
    """Something else than a file of the expected size."""


def read_plain(path: Path, at_most: int) -> bytes:
    """A file's content.

    Raises:
        OSError: it is longer than ``at_most`` bytes, or no plain file: a pipe, which would be waited for, or a folder.
    """
    # Without O_NONBLOCK, opening a pipe waits for somebody to write to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _NotPlainError(errno.EINVAL, "not a plain file", str(path))
        with open(descriptor, "rb", closefd=False) as stream:
            content = stream.read(at_most + 1)
    finally:
        os.close(descriptor)
    if len(content) > at_most:
        raise _NotPlainError(errno.EFBIG, f"longer than {at_most} bytes", str(path))
    return content


def check_plain(path: Path) -> None:
    """Nothing, of a file whose bytes end.

    Raises:
        OSError: missing, or no plain file: a pipe, which would be waited for, a device or a folder.
    """
    try:
        mode = path.stat().st_mode
    except ValueError as e:  # of a NUL
        raise _NotPlainError(errno.EINVAL, "a name that no file can have", str(path)) from e
    if not stat.S_ISREG(mode):
        raise _NotPlainError(errno.EINVAL, "a folder, a pipe or a device, and no file", str(path))


def open_lock(path: Path) -> int:
    """A descriptor to lock, of a file that is made where it is missing; what stands in its place is set aside."""
    if os.path.lexists(path) and not path.is_file():
        set_aside(path)
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


@contextmanager
def lock_file(path: Path) -> Iterator[int]:
    """The same for a while."""
    descriptor = open_lock(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Delete whatever is there: a file, a link (not what it leads to), or a folder with all that it holds."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Give what cannot be used another name, for whoever investigates; only the last one is kept."""
    aside = path.with_name(f"{path.name}.damaged")
    remove(aside)
    return path.replace(aside)


def discard(folder: Path) -> None:
    """Delete a folder so that it is either whole or gone; what a crash leaves has a hidden name. One that is not there
    is gone already.
    """
    hidden = folder if folder.name.startswith(".") else folder.with_name(f".{folder.name}.gone")
    # A rename is one step, deleting many files is not.
    if hidden != folder:
        remove(hidden)
        with suppress(FileNotFoundError):
            folder.replace(hidden)
        sync_folder(folder.parent)
    remove(hidden)
