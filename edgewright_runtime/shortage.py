"""Telling a lack of memory, disk or time, which passes, from a model that is at fault, which stays so.

Inference runtimes and libraries report a failed allocation in words of their own, as any of their errors; OpenBLAS even
interrupts its own process.
"""

from __future__ import annotations

import errno
import re

from edgewright_runtime.errors import BackendUnavailableError, DamagedError, EdgeRuntimeError, ShortageError

__all__ = ["is_fault", "is_shortage", "reads_as_shortage", "reads_as_shortage_of_disk", "shortage_or"]

# By libc's strerror, C++ (bad_alloc), Python, and the dynamic loader (failed to map segment). "Resource temporarily
# unavailable" is EAGAIN: no further thread or process, as OpenBLAS says it.
_WORDS = re.compile(
    r"bad_alloc|bad allocation|(cannot|failed to|could not|unable to) allocate|memory allocation|out of memory"
    r"|not enough memory|insufficient memory|memoryerror|cannot create thread|can't start new thread"
    r"|resource temporarily unavailable|failed to map segment|no space left|quota exceeded|too many open files",
    re.IGNORECASE,
)
_CODES = {errno.ENOMEM, errno.EAGAIN, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE}


def reads_as_shortage(text: str) -> bool:
    """Whether a message is one of those that a lack of memory or disk brings about."""
    return _WORDS.search(text) is not None


def reads_as_shortage_of_disk(text: str) -> bool:
    """Whether a message says that there is no room on the disk."""
    return re.search(r"no space left|quota exceeded", text, re.IGNORECASE) is not None


def is_shortage(error: BaseException) -> bool:
    """Whether this, or what caused it, is a lack of memory or disk."""
    # Only along `raise ... from`: what merely happened while another error was handled is not its cause.
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (ShortageError, MemoryError)) or reads_as_shortage(str(cause)):
            return True
        if isinstance(cause, OSError) and cause.errno in _CODES:
            return True
        cause = cause.__cause__
    return False


def shortage_or(kind: type[EdgeRuntimeError], error: BaseException, message: str) -> EdgeRuntimeError:
    """An error of this kind, or `ShortageError` where a lack of memory or disk is behind it."""
    return ShortageError(message) if is_shortage(error) else kind(message)


def is_fault(error: BaseException) -> bool:
    """Whether a model's check that ended so condemns it: not for want of memory, of a runtime, or of its file."""
    passes = isinstance(error, (BackendUnavailableError, DamagedError)) or is_shortage(error)
    return isinstance(error, EdgeRuntimeError) and not passes
