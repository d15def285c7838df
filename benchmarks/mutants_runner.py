"""Tests run against a copy of the tree: which of them reach a function, and whether they notice a change in it.

Each run is a fork of a process that has imported the large packages and the copy's own modules; what is changed is
changed on the disk, for children of a test, and put into the functions of the imported module. A mutant then costs
little more than its tests.
"""

import ast
import atexit
import gc
import importlib
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

__all__ = ["Tests", "Tree"]

_PRELOADED = ("numpy", "pydantic", "yaml", "fsspec", "onnx", "torch", "pytest", "http.server", "hypothesis.core")
_SHARED = {"edgewright", "edgewright_runtime", "onnx", "onnxruntime", "pandas", "scipy", "sklearn", "torch"}
_TRACE = '''"""Notes which test reaches which function, in this process and in its children."""
import os
from contextlib import suppress

_seen = set()


def reached(function):
    test, log = os.environ.get("PYTEST_CURRENT_TEST"), os.environ.get("MUTANTS_TRACE")
    if test is None or log is None or (function, test) in _seen:
        return
    _seen.add((function, test))
    with suppress(OSError), open(log, "a") as stream:
        stream.write(f"{function}\\t{test.rpartition(' ')[0]}\\n")
'''
# A function's tests: the fastest of those that reach it, up to so many seconds as they took without a change.
_MAX_TEST_S = 20.0
# How long a mutant's tests may take, against those of the unchanged code, before it counts as hung.
_PATIENCE, _MIN_WAIT_S = 4.0, 30.0

Tests = dict[str, list[str]]


class Tree:
    """A copy of the working tree's files in a folder of its own, where one file at a time is changed."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.root, self._temporary = folder / "tree", folder / "tmp"
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607 - git of the path
            cwd=source, check=True, capture_output=True, text=True,
        )  # fmt: skip
        for name in filter(None, listed.stdout.split("\0")):
            if (source / name).is_file() and name != ".venv":
                target = self.root / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, target)
        (self.root / "mutants_trace.py").write_text(_TRACE)
        self._stamp = 1_000_000_000
        self._change: tuple[str, str] | None = None
        here = Path(__file__).parents[1]
        sys.path[:] = [str(self.root), *(part for part in sys.path if Path(part or ".").resolve() != here)]
        os.environ["PYTHONPATH"] = str(self.root)
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ.setdefault(name, "1")
        _import(_PRELOADED)

    def tests_of(self, file: str, functions: tuple[str, ...], tests: tuple[str, ...]) -> tuple[Tests, dict[str, float]]:
        """The tests that reach each function, fastest first, and how long each takes.

        Raises:
            RuntimeError: the tests do not pass on the unchanged code.
        """
        source = (self.root / file).read_text()
        durations, log = self._temporary.with_name("durations.json"), self._temporary.with_name("reached")
        log.write_text("")
        with self.changed(file, _traced(source, functions)):
            code, said = self._run([*tests, "-m", "not slow"], 900, trace=log, durations=durations)
        if code != 0:
            raise RuntimeError(f"{file}: its tests do not pass on the unchanged code:\n{said[-3000:]}")
        found = json.loads(durations.read_text())
        seconds: dict[str, float] = found["seconds"]
        _import(found["modules"])
        pairs = {tuple(line.split("\t")) for line in log.read_text().splitlines()}
        reached = {
            f: sorted((t for g, t in pairs if g == f and t in seconds), key=seconds.__getitem__) for f in functions
        }
        return {f: _within(found, seconds) for f, found in reached.items()}, seconds

    def verdict(self, tests: list[str], expected_s: float) -> str:
        """``killed`` where a test fails, ``survived`` where none does, ``timed out``."""
        code, _ = self._run([*tests, "-x"], max(_MIN_WAIT_S, _PATIENCE * expected_s))
        return "timed out" if code is None else "survived" if code == 0 else "killed"

    @contextmanager
    def changed(self, file: str, content: str) -> Iterator[None]:
        """The file with another content meanwhile."""
        path = self.root / file
        before = path.read_text()
        self._write(path, content)
        self._change = file, content
        try:
            yield
        finally:
            self._change = None
            self._write(path, before)

    def _write(self, path: Path, content: str) -> None:
        # Compiled modules are told apart by whole seconds and size: no two contents may share them.
        self._stamp += 1
        path.write_text(content)
        os.utime(path, (self._stamp, self._stamp))

    def _run(
        self, arguments: list[str], limit_s: float, *, trace: Path | None = None, durations: Path | None = None
    ) -> tuple[int | None, str]:
        """pytest's exit code, None where it took too long, and what it said."""
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir()
        output = self._temporary.with_name("output")
        gc.freeze()  # else every collection in the fork copies what is shared
        child = os.fork()
        if child == 0:
            _test(self.root, self._temporary, output, arguments, self._change, trace, durations)
        code = _awaited(child, limit_s)
        with suppress(ProcessLookupError):  # what a test has left running
            os.killpg(child, signal.SIGKILL)
        return code, output.read_text(errors="replace")


class _Durations:
    """A pytest plugin: seconds of each test, with what it set up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration


def _import(names: Iterable[str]) -> None:
    for name in names:
        with suppress(ImportError):  # a part of a package that cannot be imported alone
            importlib.import_module(name)


def _test(
    root: Path,
    temporary: Path,
    output: Path,
    arguments: list[str],
    change: tuple[str, str] | None,
    trace: Path | None,
    durations: Path | None,
) -> None:
    """In the fork: run pytest in the copy, and end."""
    code = 99
    try:
        os.setsid()
        atexit._clear()  # the parent's: they would remove the tree
        stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for descriptor in (1, 2):
            os.dup2(stream, descriptor)
        tempfile.tempdir = None  # the parent's
        os.environ["TMPDIR"] = str(temporary)
        os.chdir(root)
        if trace is not None:
            os.environ["MUTANTS_TRACE"] = str(trace)
        if change is not None:
            _put_in(*change)
        import pytest

        timer = _Durations()
        quiet = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of Hypothesis, which was imported before
        options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--rootdir={root}", *quiet]
        code = int(pytest.main([*options, *arguments], plugins=[timer]))
        if durations is not None:
            durations.write_text(json.dumps({"seconds": timer.seconds, "modules": _modules()}))
        atexit._run_exitfuncs()
    except BaseException:  # nothing may return into the parent's frames
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _modules() -> list[str]:
    """What may be imported beforehand: not the tasks, since Prefect and MLflow read the tests' settings at import."""
    return sorted(name for name in sys.modules if name.partition(".")[0] in _SHARED)


def _put_in(file: str, content: str) -> None:
    """Give the functions of a module that is imported already the code that they have in this content."""
    module = sys.modules.get(file.removesuffix(".py").replace("/", "."))
    if module is None:
        return
    for code in _codes(compile(content, str(module.__file__), "exec")):
        found: Any = module
        for name in code.co_qualname.split("."):
            found = inspect.getattr_static(found, name, None)
        found = inspect.unwrap(found.fget if isinstance(found, property) else getattr(found, "__func__", found))
        if isinstance(found, FunctionType) and found.__code__.co_freevars == code.co_freevars:
            found.__code__ = code


def _codes(module: CodeType) -> Iterator[CodeType]:
    """The code of all functions and methods."""
    for code in module.co_consts:
        if isinstance(code, CodeType) and "<" not in code.co_qualname:
            yield code
            yield from _codes(code)


def _awaited(child: int, limit_s: float) -> int | None:
    ends = time.monotonic() + limit_s
    while time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _within(tests: list[str], seconds: dict[str, float]) -> list[str]:
    chosen, spent = [], 0.0
    for test in tests:
        spent += seconds[test]
        if chosen and spent > _MAX_TEST_S:
            break
        chosen.append(test)
    return chosen


def _traced(source: str, functions: tuple[str, ...]) -> str:
    """The source with a line at the beginning of each of these functions that notes who reached it."""
    lines = source.splitlines(keepends=True)
    places = []
    for name, node in _functions(ast.parse(source), ""):
        if name in functions:
            has_docstring = ast.get_docstring(node) is not None and len(node.body) > 1
            first = node.body[1 if has_docstring else 0]
            places.append((first.lineno, first.col_offset, name))
    for line, column, name in sorted(places, reverse=True):
        lines.insert(line - 1, f'{" " * column}__import__("mutants_trace").reached("{name}")\n')
    return "".join(lines)


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            yield f"{prefix}{child.name}", child
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")
