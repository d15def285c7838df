"""What a bench process said, or what its silence means: the same words whatever machine it ran on."""

import json
import signal
from typing import Any

from edgewright import errors
from edgewright.errors import ConversionError, EdgewrightError, UnsupportedError

__all__ = ["OutOfMemoryError", "TooSlowError", "answer_of"]

_SHOWN = 120  # characters of what is no answer
_SHELL_SIGNAL = 128  # a shell reports a child that died by signal n as 128 + n
# As the runtimes, libc and Python put it; "ailed" leaves either capital.
_ALLOCATION = ("bad_alloc", "MemoryError", "Cannot allocate", "ailed to allocate", "cannot allocate", "out of memory")


class OutOfMemoryError(ConversionError):
    """An allocation was refused on the target."""


class TooSlowError(ConversionError):
    """There was no answer in the time that was given."""


def answer_of(content: str | None, code: int, log: str, what: str) -> dict[str, Any]:
    """The bench's answer from its output file, its exit code (negative: signal) and the end of its log.

    Raises:
        OutOfMemoryError: an allocation was refused.
        UnsupportedError: the runtime is not installed.
        ConversionError: anything else that is not an answer, named.
    """
    if content is None:
        if any(word in log for word in _ALLOCATION):
            raise OutOfMemoryError(f"{what}: out of memory")
        raise ConversionError(f"{what}: {_death(code, log)}")
    try:
        answer = json.loads(content)
    except json.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):
        raise ConversionError(
            f"{what}: the answer is not the bench's JSON object but {content.strip()[:_SHOWN]!r}; nothing that a login "
            "there runs, such as .bashrc, may print"
        )
    if "error" in answer:
        raise _named(answer["error"], what)
    return answer


def _death(code: int, log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    last = f" ({lines[-1][:300]})" if lines else ""
    number = -code if code < 0 else code - _SHELL_SIGNAL
    if number in set(signal.Signals):
        return f"the process was ended by {signal.Signals(number).name}{last}"
    return f"the process ended with exit code {code} and no answer{last}"


def _named(error: object, what: str) -> EdgewrightError:
    match error:
        case {"type": str(kind), "message": str(message)}:
            pass
        case _:
            return ConversionError(f"{what}: the bench's error has no type and message: {str(error)[:_SHOWN]}")
    if kind == "MemoryError" or any(word in message for word in _ALLOCATION):
        return OutOfMemoryError(f"{what}: out of memory ({message[:200]})")
    if kind == "BackendUnavailableError":
        return UnsupportedError(f"{what}: {message}")
    # The answer names the class of its error: one of this package's own is raised as it was.
    known = getattr(errors, kind, None)
    if isinstance(known, type) and issubclass(known, EdgewrightError):
        return known(f"{what}: {message}")
    return ConversionError(f"{what}: {message}")
