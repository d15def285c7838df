"""Run one function in a process of its own: a crash, a leak or a heavy import there stays there.

``python -m edgewright.child REQUEST RESPONSE`` is the child's side, unless a fork server has the frameworks at hand
(`edgewright.forking`). The request names ``module:function`` and its arguments, the response holds what it returned;
both are JSON, and pydantic makes of it what the function's annotations say. The child is confined, see
`edgewright.sandbox`: it writes only where it is told to.
"""

import ctypes
import importlib
import inspect
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints, overload

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from edgewright import errors, forking, sandbox
from edgewright.failures import failing_operator, one_line, signal_name
from edgewright.forking import Frameworks
from edgewright.full_disk import full_among
from edgewright.progress import Announcement, progress
from edgewright.scratch import scratch_folder, system_scratch

__all__ = ["ChildRun", "called", "deferred", "die_with_parent", "run_in_child"]

R = TypeVar("R")

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_TAIL_BYTES = 1 << 16
_NO_ANSWER = "the child process answered something else"
# Signals of a fault in native code. SIGKILL is none: the kernel (memory, processor time) or a person sends it.
_CRASHES = {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV}
# Threads that wait for one another by spinning were measured to double the work of a training on a busy machine.
_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}


@dataclass(frozen=True)
class ChildRun(Generic[R]):
    """What a child returned and what it took. ``peak_memory_mb`` is VmHWM, None where /proc is not there.

    ``unconfined`` says what of the sandbox this system does not have; empty where it is whole.
    """

    value: R
    seconds: float
    peak_memory_mb: float | None
    unconfined: str = ""


@dataclass(frozen=True)
class _Confinement:
    writable: tuple[Path, ...]
    seconds: float


@dataclass(frozen=True)
class _Request:
    """``target`` is ``module:function``; its arguments are as JSON has them. ``folders`` are its to write."""

    target: str
    args: list[Any]
    kwargs: dict[str, Any]
    folders: tuple[Path, ...]
    confined: _Confinement | None


@dataclass(frozen=True)
class _Failure:
    type: str
    message: str
    operator: str
    traceback: str


@dataclass(frozen=True)
class _Response:
    """What the function returned, as JSON has it, or why it did not."""

    value: Any = None
    error: _Failure | None = None
    peak_memory_mb: float | None = None
    notes: tuple[str, ...] = ()
    unconfined: str = ""


class _Deferred:
    """A function by its name, whose module is imported when it is called."""

    def __init__(self, target: str) -> None:
        self.__module__, _, self.__qualname__ = target.partition(":")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _function(self.__module__, self.__qualname__)(*args, **kwargs)


def deferred(target: str) -> Any:
    """The function ``module:name``, for a child: this process does not import its module, which may need a framework.

    Type checkers, and whoever follows the imports, are told of it by an import of the same name:

    >>> from typing import TYPE_CHECKING
    >>> if TYPE_CHECKING:
    ...     from json import dumps
    ... else:
    ...     dumps = deferred("json:dumps")
    """
    return _Deferred(target)


@overload
def run_in_child(
    job: "partial[None]",
    *,
    what: str,
    timeout_s: float = ...,
    environment: Mapping[str, str] | None = ...,
    advice: str = ...,
    writes: Sequence[Path] = ...,
    is_confined: bool = ...,
    frameworks: Frameworks | None = ...,
) -> ChildRun[None]: ...


@overload
def run_in_child(
    job: "partial[R]",
    *,
    returns: type[R],
    what: str,
    timeout_s: float = ...,
    environment: Mapping[str, str] | None = ...,
    advice: str = ...,
    writes: Sequence[Path] = ...,
    is_confined: bool = ...,
    frameworks: Frameworks | None = ...,
) -> ChildRun[R]: ...


def run_in_child(
    job: "partial[Any]",
    *,
    returns: Any = None,
    what: str,
    timeout_s: float = 900,
    environment: Mapping[str, str] | None = None,
    advice: str = "",
    writes: Sequence[Path] = (),
    is_confined: bool = True,
    frameworks: Frameworks | None = None,
) -> ChildRun[Any]:
    """Call ``job``, a module's function with its arguments, in a process of its own; it ``returns`` a value of a type.

    Arguments and value go by JSON: numbers, texts, paths, enumerations, dataclasses, pydantic's models, and lists and
    dictionaries of these; in the child, the function's annotations say what becomes of them again.

    It may write below the folders ``writes`` and its own temporary folder; unless it ``is_confined``, as code of the
    user's own is not, anywhere. ``frameworks`` are what it works with, where that is not in `forking.frameworks_of`.

    ``what`` names the work in messages ("converting digits_cnn to LiteRT"). Raises the child's own
    `EdgewrightError`; any other exception, a crash by signal or a timeout becomes a `ConversionError` of one line,
    which names the operator that the work was at where the child could tell, and ends in the ``advice``.
    """
    began = time.perf_counter()
    target = f"{job.func.__module__}:{job.func.__qualname__}"
    # In the child `__main__` is edgewright.child itself: the name would lead to another function, or to none.
    if target.startswith("__main__:"):
        raise ValueError(
            f"{target}: a child cannot import what is run as a script; give it deferred('module:function')"
        )
    with scratch_folder(system_scratch()) as scratch:
        request, response, log = (scratch / n for n in ("request.json", "response.json", "log.txt"))
        folders = [scratch, *(path.resolve() for path in writes)]
        allowed = _Confinement(tuple(folders), timeout_s) if is_confined else None
        asked = _Request(target, list(job.args), dict(job.keywords), tuple(folders), allowed)
        request.write_text(json.dumps(_plain(asked)))
        before, inherited = sandbox.prefix(folders) if is_confined else ([], dict(os.environ))
        # Its temporary files go with the scratch folder, however it ends.
        variables = {**_ENVIRONMENT, **inherited, "TMPDIR": str(scratch), **(environment or {})}
        command = [*before, sys.executable, "-m", "edgewright.child", str(request), str(response)]
        files = (request, response, log)
        code = _run(frameworks or forking.frameworks_of(target), command, files, variables, timeout_s)
        if code is None:
            raise errors.ConversionError(f"{what}: no result after {timeout_s:.0f} s; stopped")
        if not response.exists():
            message = f"{what}: {_cause_of_death(code, log)}"
            if -code in _CRASHES:
                raise errors.CrashError(message, signal.Signals(-code).name)
            raise errors.ConversionError(message)
        answer = _read_response(response, what)
    # Before an error is raised: notes of a child that failed are told, too.
    for note in answer.notes:
        progress.note(note)
    if answer.error is not None:
        raise _revived(answer.error, what, advice)
    value = _validated(returns, answer.value, what)
    return ChildRun(value, time.perf_counter() - began, answer.peak_memory_mb, answer.unconfined)


def _read_response(path: Path, what: str) -> _Response:
    try:
        document = json.loads(path.read_text())
    except (ValueError, RecursionError) as e:  # of UTF-8, or of JSON
        raise errors.ConversionError(f"{what}: {_NO_ANSWER}: {one_line(e)}") from e
    response: _Response = _validated(_Response, document, what)
    return response


def _validated(kind: Any, value: Any, what: str) -> Any:
    """The child may have run a hostile file: what it answers is validated as any input is."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as e:
        raise errors.ConversionError(f"{what}: {_NO_ANSWER}: {one_line(e)}") from e


def _plain(value: Any) -> Any:
    """As JSON has it; what has no such form is a `TypeError` or a `PydanticSerializationError`."""
    return to_jsonable_python(value, inf_nan_mode="constants")


def _function(module: str, name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def called(target: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call ``module:function`` with arguments as JSON has them; what it returned, likewise."""
    function = _function(*target.split(":"))
    hints = get_type_hints(function, include_extras=True)
    bound = inspect.signature(function).bind(*args, **kwargs)
    for name in bound.arguments.keys() & hints.keys():
        bound.arguments[name] = TypeAdapter(hints[name]).validate_python(bound.arguments[name])
    return _plain(function(*bound.args, **bound.kwargs))


def _run(
    frameworks: Frameworks,
    command: list[str],
    files: tuple[Path, Path, Path],
    environment: Mapping[str, str],
    timeout_s: float,
) -> int | None:
    """The exit code of a fork, else of a new interpreter by ``command``; None where it took too long."""
    if frameworks is not Frameworks.NONE and forking.is_available():
        try:
            return forking.run_forked(frameworks, *files, environment, timeout_s)
        except forking.ServerLostError as e:
            # Once: the reason holds for every later job of the kind, and so would its note.
            if e.is_new:
                progress.note(f"each step with {frameworks} starts an interpreter of its own: {e}")
    return _spawned(command, files[-1], environment, timeout_s)


def _spawned(command: list[str], log: Path, environment: Mapping[str, str], timeout_s: float) -> int | None:
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=dict(environment)
        )
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            # After an interrupt as well: an orphan would write on into a scratch folder that is being removed.
            if process.poll() is None:
                process.kill()
                process.wait()


def _cause_of_death(code: int, log: Path) -> str:
    with log.open("rb") as stream:
        # Its end alone: a hostile file's child writes as much as it likes.
        stream.seek(-min(stream.seek(0, os.SEEK_END), _TAIL_BYTES), os.SEEK_END)
        lines = stream.read(_TAIL_BYTES).decode(errors="replace").splitlines()
    tail = next((line for line in reversed(lines) if line.strip()), "")
    last = f" ({one_line(tail)})" if tail else ""
    if code < 0:
        return f"the child process was ended by {signal_name(-code)}{last}"
    return f"the child process ended with exit code {code} and no result{last}"


def _revived(error: _Failure, what: str, advice: str) -> Exception:
    if error.type in {"ModuleNotFoundError", "MissingLibraryError"}:
        return errors.MissingLibraryError(f"{what}: {error.message.partition(';')[0]}")
    # The type comes as a name: nothing but our own errors is made of it.
    kind = getattr(errors, error.type, None)
    if isinstance(kind, type) and issubclass(kind, errors.EdgewrightError):
        return kind(error.message)
    at = f"operator {error.operator} fails: " if error.operator else ""
    then = f"; {advice}" if advice else ""
    failure = errors.ConversionError(f"{what}: {at}{error.type}: {error.message}{then}")
    failure.add_note(error.traceback)
    return failure


def _peak_memory_mb() -> float | None:
    # ru_maxrss would count the parent's memory from before the exec; VmHWM starts anew with it.
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def die_with_parent(sign: signal.Signals) -> None:
    """Ask the kernel to send this process ``sign`` when its parent is gone, however that ended; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, sign)


def main(request: Path, response: Path) -> None:
    """The child's side: call the function that the request names, write what it returned or raised."""
    die_with_parent(signal.SIGKILL)
    forking.forbid()
    asked = TypeAdapter(_Request).validate_python(json.loads(request.read_text()))
    notes: list[str] = []
    unconfined = ""
    if asked.confined is not None:
        # Before `called` imports the target: what a library runs at its import is confined, too.
        unconfined = sandbox.confine(list(asked.confined.writable), seconds=asked.confined.seconds)

    def heard(event: Announcement) -> None:
        if event.note:
            notes.append(event.title)

    try:
        with progress.listening(heard):
            value = called(asked.target, asked.args, asked.kwargs)
        answer = _Response(value, peak_memory_mb=_peak_memory_mb())
    except Exception as e:
        # Here and now: the parent removes what fills the disk with the folder that it lies in. An error that takes it
        # for a fault of the model's would end in another result, where the run has to be repeated.
        full = full_among(asked.folders)
        if full and not isinstance(e, errors.InputError):
            e = errors.EdgewrightError(full).with_traceback(e.__traceback__)
        ours = isinstance(e, errors.EdgewrightError)
        answer = _Response(
            error=_Failure(
                type=type(e).__name__,
                message=str(e) if ours else one_line(e),
                operator="" if ours else failing_operator(e),
                traceback=traceback.format_exc(),
            )
        )
    # A rename: a child that is killed while it writes leaves no response, which the parent takes for its death.
    staged = response.with_suffix(".part")
    staged.write_text(json.dumps(_plain(replace(answer, notes=tuple(notes), unconfined=unconfined))))
    staged.replace(response)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
