"""What a bench process said, or what its silence means: the same words whatever machine it ran on."""

import json
import signal
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from edgewright import errors
from edgewright.errors import ConversionError, EdgewrightError, UnsupportedError
from edgewright.measurement import ComputePlan
from edgewright.yaml_values import first_fault
from edgewright_runtime.bench.answer import FIGURES, BenchAnswer, BenchFailure

__all__ = ["OutOfMemoryError", "TooSlowError", "answer_of", "expect_figures"]

F = TypeVar("F")

_SHOWN = 120  # characters of what is no answer
_SHELL_SIGNAL = 128  # a shell reports a child that died by signal n as 128 + n
# As the runtimes, libc and Python put it; "ailed" leaves either capital.
_ALLOCATION = ("bad_alloc", "MemoryError", "Cannot allocate", "ailed to allocate", "cannot allocate", "out of memory")

_FIGURES: Mapping[str, type[Any]] = {**FIGURES, "compute_plan": ComputePlan}


class OutOfMemoryError(ConversionError):
    """An allocation was refused on the target."""


class TooSlowError(ConversionError):
    """There was no answer in the time that was given."""


def answer_of(content: str | None, code: int, log: str, task: str, what: str) -> BenchAnswer[object]:
    """The bench's answer to a task from its output file, its exit code (negative: signal) and the end of its log.

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
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise ConversionError(
            f"{what}: the answer is not the bench's JSON object but {content.strip()[:_SHOWN]!r}; nothing that a login "
            "there runs, such as .bashrc, may print"
        )
    if "error" in document:
        raise _named(document["error"], what)
    # One object holds the figures and the machine: each takes its own keys.
    figures = _validated(_FIGURES[task], document, task, what)
    return _validated(BenchAnswer[object], {**document, "figures": figures}, task, what)


def _validated(kind: type[F], document: Mapping[str, Any], task: str, what: str) -> F:
    try:
        return TypeAdapter(kind).validate_python(document)
    except ValidationError as e:
        raise ConversionError(
            f"{what}: the bench's answer to '{task}': {first_fault(e, kind)}; if it is older, update the runtime there"
        ) from e


def expect_figures(answer: BenchAnswer[object], kind: type[F], what: str) -> BenchAnswer[F]:
    """The same answer, whose figures are of the kind that the task gives.

    Raises:
        ConversionError: they are not: a target of another distribution answers as it likes.
    """
    figures = answer.figures if isinstance(answer, BenchAnswer) else answer
    if not isinstance(figures, kind):
        raise ConversionError(
            f"{what}: the target answered with {type(figures).__name__}, expected is a BenchAnswer with {kind.__name__}"
        )
    return BenchAnswer(figures, answer.machine, answer.before, answer.after)


def _death(code: int, log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    last = f" ({lines[-1][:300]})" if lines else ""
    number = -code if code < 0 else code - _SHELL_SIGNAL
    if number in set(signal.Signals):
        return f"the process was ended by {signal.Signals(number).name}{last}"
    return f"the process ended with exit code {code} and no answer{last}"


def _named(error: object, what: str) -> EdgewrightError:
    try:
        failure = TypeAdapter(BenchFailure).validate_python(error)
    except ValidationError:
        return ConversionError(f"{what}: the bench's error has no type and message: {str(error)[:_SHOWN]}")
    kind, message = failure.type, failure.message
    if kind == "MemoryError" or any(word in message for word in _ALLOCATION):
        return OutOfMemoryError(f"{what}: out of memory ({message[:200]})")
    if kind == "BackendUnavailableError":
        return UnsupportedError(f"{what}: {message}")
    # The answer names the class of its error: one of this package's own is raised as it was.
    known = getattr(errors, kind, None)
    if isinstance(known, type) and issubclass(known, EdgewrightError):
        return known(f"{what}: {message}")
    return ConversionError(f"{what}: {message}")
