"""Functions of children: what is named for this process is what type checkers are told of, and goes by JSON."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from pydantic import TypeAdapter

ROOT = Path(__file__).parents[1]
FOLDERS = ("edgewright", "tasks", "flows")


def blocks() -> Iterator[tuple[Path, ast.If]]:
    """Each ``if TYPE_CHECKING: import … else: … = deferred(…)``."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.If) and "deferred(" in ast.unparse(node.orelse):
                    yield path, node


def targets(node: ast.If) -> dict[str, str]:
    """{name: "module:function"} of the functions that are named for this process."""
    found = {}
    for statement in node.orelse:
        assert isinstance(statement, ast.Assign)
        assert isinstance(statement.value, ast.Call)
        (name,), (target,) = statement.targets, statement.value.args
        found[ast.unparse(name)] = ast.literal_eval(target)
    return found


def imports(node: ast.If) -> dict[str, str]:
    """The same of the imports for type checkers."""
    return {
        alias.asname or alias.name: f"{statement.module}:{alias.name}"
        for statement in node.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }


ALL = sorted({target for _, node in blocks() for target in targets(node).values()})


def test_both_name_the_same_functions() -> None:
    assert len(ALL) > 20
    for path, node in blocks():
        assert targets(node) == imports(node), path


@pytest.mark.parametrize("target", ALL)
@pytest.mark.filterwarnings("ignore")
def test_each_is_there_and_its_values_go_by_json(target: str) -> None:
    module, _, name = target.partition(":")
    function: Any = getattr(importlib.import_module(module), name)
    hints = get_type_hints(function, include_extras=True)
    assert set(hints) == {*inspect.signature(function).parameters, "return"}
    for hint in hints.values():
        TypeAdapter(hint).json_schema()  # raises where there is no form in JSON
