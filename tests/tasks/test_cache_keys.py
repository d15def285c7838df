"""A kept result is found again only while the code that made it is the same: every module that a task reaches is in its
key, those aside that compute nothing."""

import ast
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewright.recipe import Distill
from tasks import optimize, validate

ROOT = Path(__file__).parents[2]
OURS = ("edgewright", "edgewright_runtime")
# Errors, types and where files lie: a change there changes no result, or changes what comes in by its value.
COMPUTES_NOTHING = {
    *(
        f"edgewright.{name}"
        for name in (
            "code_version",
            "data",
            "errors",
            "failures",
            "forking",
            "locks",
            "measurement",
            "profile",
            "progress",
            "scratch",
            "store",
            "yaml_values",
        )
    ),
    *(
        f"edgewright_runtime.{name}"
        for name in ("disk", "errors", "manifest", "monitoring", "preprocessing", "strict_json")
    ),
}

FORKS_FOR_ALL = "edgewright.forking"  # it names what others ask for


def source(module: str) -> Path:
    """Its file; one that is not there is no module (but a name in one)."""
    base = ROOT / Path(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def imported_by(module: str) -> Iterator[str]:
    """The modules of this project that are named in an import, or as ``module:function`` of a child process."""
    for node in ast.walk(ast.parse(source(module).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                yield inner if source(inner).exists() else node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and module != FORKS_FOR_ALL:
            yield node.value.partition(":")[0].rstrip(".")


def modules(names: tuple[str, ...]) -> set[str]:
    """The modules of the packages and modules among the names; the others are distributions."""
    found = set()
    for name in (n for n in names if n.partition(".")[0] in OURS):
        assert source(name).exists(), f"{name} is not there"
        files = source(name).parent.rglob("*.py") if source(name).name == "__init__.py" else [source(name)]
        for file in files:
            found.add(".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    return found


def reached(start: set[str]) -> set[str]:
    """All that those modules import, and what these import."""
    found, queue = set(start), list(start)
    while queue:
        for name in imported_by(queue.pop()):
            if name.partition(".")[0] in OURS and name not in found and source(name).exists():
                found.add(name)
                queue.append(name)
    return found


@pytest.mark.parametrize(
    ("code", "start"),
    [
        (optimize._EXPORT, modules(("edgewright.export",))),
        (optimize._OPTIMIZE, {"edgewright.optimize", "edgewright.optimize.carry_out"}),
        (validate._EVALUATE, {"edgewright.export.mil_evaluator"}),
    ],
    ids=["export", "techniques", "accuracy of an ML Program"],
)
def test_every_module_that_a_task_reaches_is_in_its_key(code, start):
    assert reached(start) - modules(code) - COMPUTES_NOTHING - set(OURS) == set()


def test_every_distribution_of_a_key_is_one_that_is_imported_here():
    """A misspelt name would count as "absent" for ever."""
    names = {*optimize._EXPORT, *optimize._OPTIMIZE, *validate._EVALUATE}
    distributions = {name for name in names if name.partition(".")[0] not in OURS}
    assert all(importlib.metadata.version(name) for name in distributions)


@pytest.mark.parametrize("layout", ["mine.py", "mine/__init__.py"], ids=["module", "package"])
def test_a_changed_student_of_the_users_own_is_distilled_anew(layout, tmp_path, monkeypatch):
    keys = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(optimize, "run", lambda task, *values: keys.append((task.name, *values[1:])))
    file = tmp_path / layout
    file.parent.mkdir(exist_ok=True)
    for content in ("width = 1", "width = 1", "width = 2"):
        file.write_text(content)
        optimize.compress(None, Distill(student="mine:make"), None, None)
    optimize.compress(None, Distill(student="width"), None, None)
    assert keys[0] == keys[1] != keys[2]
    assert keys[0][-1] != keys[3][-1] == ""
