"""What the machine lacks, in one line: room on a disk, the right to write, open files, processes.

>>> shortage_of(OSError(errno.EROFS, "Read-only file system", "/sd/home"))
'/sd/home cannot be written: Read-only file system; make it writable, or set EDGEWRIGHT_HOME to a folder that is'
"""

import errno
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from edgewright.errors import InputError
from edgewright.full_disk import full_among, full_disk_line
from edgewright.store import home
from edgewright.variables import variable
from edgewright_runtime.disk import make_folder

__all__ = ["causes", "require_processes", "require_writable", "setting_of", "shortage_of"]

_FULL = {errno.ENOSPC, errno.EDQUOT}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM}
_TOO_MANY_FILES = {errno.EMFILE, errno.ENFILE}
# Each names a folder of the libraries' own; where it is not set, the folder lies in the home or is never met.
_SETTINGS = ("PREFECT_LOCAL_STORAGE_PATH", "PREFECT_HOME", "TMPDIR")
_ENOUGH_FILES = 256  # a small model's deployment ended with 64
# Servers, and a child's pools of a thread for each core: with two cores a run ended well with 40, and failed with 24.
_ENOUGH_PROCESSES = 32 + 4 * (os.cpu_count() or 1)
_STACK_BYTES = 1 << 18  # of a thread that only waits


def shortage_of(error: BaseException) -> str | None:
    """What is lacking and what to do, where that ended the work; None where something else did.

    An error of another process, as a server's, does not tell: there a full disk of the home counts as its cause.
    """
    for cause in causes(error):
        if isinstance(cause, OSError) and (message := _said_of(cause)):
            return message
        # Of fork(2), and of a thread.
        if isinstance(cause, BlockingIOError) or str(cause) == "can't start new thread":
            return _too_few_processes("no more are allowed now")
    return full_among([home()])


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what is behind it, the nearest first."""
    while error is not None:
        yield error
        # `from None`: what was handled before is not what went wrong.
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def require_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written, before any work is begun; it is made where it is missing.

    Raises:
        InputError: what is in the way, and what to do.
    """
    probe = folder / f".{uuid4().hex[:8]}"
    try:
        make_folder(folder)
        probe.touch()
        probe.unlink()
    except OSError as e:
        raise InputError(shortage_of(e) or f"{folder} cannot be used: {e.strerror}; set EDGEWRIGHT_HOME") from e


def require_processes() -> None:
    """Refuse where too few processes may be started, before any work is begun.

    Where a thread cannot be started, OpenBLAS ends its process, and a server may wait for ever. Limits are of many
    kinds (``ulimit -u``, a container's), so as many threads as a run needs are started here, for an instant; the kernel
    counts a thread as a process.

    Raises:
        InputError: how many there can be, and what to do.
    """
    over, started = threading.Event(), list[threading.Thread]()
    stack_bytes = threading.stack_size(_STACK_BYTES)
    try:
        while len(started) < _ENOUGH_PROCESSES:
            thread = threading.Thread(target=over.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError as e:
        raise InputError(_too_few_processes(f"{len(started)} more are allowed")) from e
    finally:
        threading.stack_size(stack_bytes)
        over.set()
        for thread in started:
            thread.join()


def setting_of(path: Path) -> str:
    """The environment variable by which the folder of a file is chosen."""
    # The home first: other folders may be set to places inside it, and go with it.
    if not path.absolute().is_relative_to(home().absolute()):
        for name in _SETTINGS:
            if (folder := variable(name)) and path.absolute().is_relative_to(Path(folder).absolute()):
                return name
    return "EDGEWRIGHT_HOME"


def _said_of(error: OSError) -> str | None:
    # Of two names the second is where something was to be written.
    named = error.filename2 or error.filename
    # Of a call by descriptor it is a number.
    path = Path(os.fsdecode(named)) if isinstance(named, (str, bytes, os.PathLike)) else home()
    if error.errno in _FULL:
        return full_disk_line(path, str(error.strerror))
    if error.errno == errno.EROFS:
        return (
            f"{path} cannot be written: {error.strerror}; make it writable, "
            f"or set {setting_of(path)} to a folder that is"
        )
    if error.errno in _NOT_ALLOWED:
        setting = setting_of(path)
        return f"{path}: {error.strerror}; give this user the right to use it, or set {setting} to another folder"
    if error.errno in _TOO_MANY_FILES:
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"{error.strerror}: {allowed} are allowed, {_ENOUGH_FILES} are enough; `ulimit -n {_ENOUGH_FILES}` first"
    return None


def _too_few_processes(allowed: str) -> str:
    return (
        f"too few processes: {allowed}, {_ENOUGH_PROCESSES} are needed; end others of this user, or raise the limit "
        "(`ulimit -u`, or the container's)"
    )
