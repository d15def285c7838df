"""What is changed in a function, one change at a time: cosmic-ray's operators, and one of our own.

Of the replacements of a comparison only the one is made that is hardest to notice: the boundary moved, or the opposite
where there is none. Arithmetic operators become their inverse.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.zoo_environment import uv_install

__all__ = ["Mutant", "mutants_of", "tool_version"]

SITE = Path(__file__).parents[1] / ".mutants" / "site"
_PINS = ("cosmic-ray==8.7.0", "parso==0.8.7", "attrs")
_COMPARISONS = ("Eq_NotEq", "NotEq_Eq", "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Is_IsNot", "IsNot_Is")
_ARITHMETIC = (
    "Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_FloorDiv", "BitOr_BitAnd", "BitAnd_BitOr",
    "LShift_RShift", "RShift_LShift",
)  # fmt: skip
_OF_PATHS = re.compile(r"[\"']|\b(root|folder|name|path|target)\b")
_NAMES = (
    *(f"ReplaceComparisonOperator_{pair}" for pair in _COMPARISONS),
    *(f"ReplaceBinaryOperator_{pair}" for pair in _ARITHMETIC),
    *("ReplaceUnaryOperator_Delete_Not", "ReplaceUnaryOperator_USub_UAdd", "ReplaceTrueWithFalse"),
    *("ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceBreakWithContinue"),
    *("ReplaceContinueWithBreak", "ExceptionReplacer", "NumberReplacer", "ZeroIterationForLoop"),
)


@dataclass(frozen=True)
class Mutant:
    """One change: the function, its line, and the whole file as it becomes. ``was`` and ``now`` are the lines alone."""

    file: str
    function: str
    line: int
    operator: str
    was: str
    now: str
    content: str


def tool_version() -> str:
    """The mutation tool's name and version; it is installed where it is not yet."""
    marker = SITE / ".pins"
    if not marker.is_file() or marker.read_text() != str(_PINS):
        uv_install("--target", str(SITE), "--no-deps", *_PINS)
        marker.write_text(str(_PINS))
    if str(SITE) not in sys.path:
        sys.path.append(str(SITE))
    return _PINS[0].replace("==", " ")


def mutants_of(file: str, source: str, functions: tuple[str, ...]) -> list[Mutant]:
    """Every mutant of these functions (``name`` or ``Class.name``), in the order of their lines.

    Raises:
        LookupError: the file has no such function.
    """
    tool_version()
    import parso

    found, contents = [], set[str]()
    tree = parso.parse(source)
    for function in functions:
        for name, operator in _operators():
            count = sum(1 for _ in _positions(_body(tree, function), operator))
            for number in range(count):
                content, line = _mutated(source, function, operator, number)
                was, now = _changed_lines(source, content)
                if was != now and "".join(content.split()) not in contents:
                    contents.add("".join(content.split()))
                    found.append(Mutant(file, function, line, name, was, now, content))
    return sorted(found, key=lambda mutant: mutant.line)


def _operators() -> Iterator[tuple[str, Any]]:
    from cosmic_ray.operators.provider import OperatorProvider

    kept = OperatorProvider()
    yield from ((name, kept[name]()) for name in _NAMES)
    yield "NegateCondition", _negation_of(kept["AddNot"])()
    yield "RemoveStatement", _RemoveStatement()


def _negation_of(add_not: Any) -> Any:
    class NegateCondition(add_not):  # type: ignore[misc]
        """``not (…)`` around a condition; cosmic-ray's own leaves the parentheses out, so it negates the first part
        of it, and it negates one comparison that is replaced already.
        """

        def mutation_positions(self, node: Any) -> Iterator[Any]:
            for position in super().mutation_positions(node):
                condition = node.children[2 if node.type == "test" else 1]
                operators = [child.get_code().strip() for child in getattr(condition, "children", ())[1::2]]
                if condition.type != "comparison" or operators[0] in {"in", "not in", "<", "<=", ">", ">="}:
                    yield position

        def mutate(self, node: Any, index: int) -> Any:
            import parso

            place = 2 if node.type == "test" else 1
            node.children[place] = parso.parse(f" not ({node.children[place].get_code().strip()})")
            return node

    return NegateCondition


class _RemoveStatement:
    """A call whose result is not used, a ``raise``, or a bare ``return`` becomes ``pass``: cosmic-ray has no such."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        if node.type != "simple_stmt":
            return
        first = node.children[0]
        is_call = first.type == "atom_expr" and first.children[-1].type == "trailer"
        if is_call or first.type == "raise_stmt" or first.get_code().strip() in {"return", "raise"}:
            yield first.start_pos, first.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        import parso

        return parso.parse(f"{node.get_first_leaf().prefix}pass\n")


def _mutated(source: str, function: str, operator: Any, number: int) -> tuple[str, int]:
    import parso

    tree = parso.parse(source)
    node, index = list(_positions(_body(tree, function), operator))[number]
    siblings = node.parent.children
    place = next(i for i, sibling in enumerate(siblings) if sibling is node)
    line = list(operator.mutation_positions(node))[index][0][0]
    siblings[place] = operator.mutate(node, index)
    return tree.get_code(), line


def _positions(body: Any, operator: Any) -> Iterator[tuple[Any, int]]:
    for node in _nodes(body):
        if node.type == "operator" and node.value == "/" and _OF_PATHS.search(node.parent.get_code()):
            continue  # not a division
        for index, _ in enumerate(operator.mutation_positions(node)):
            yield node, index


def _nodes(node: Any) -> Iterator[Any]:
    """All nodes of a body, but for those that only make up a message."""
    yield node
    if node.type in {"fstring", "raise_stmt"}:
        return
    for child in getattr(node, "children", ()):
        yield from _nodes(child)


def _body(tree: Any, function: str) -> Any:
    """The suite of a function: its signature is left alone."""
    scope = tree
    for name in function.split("."):
        inside = [*scope.iter_classdefs(), *scope.iter_funcdefs()]
        scope = next((found for found in inside if found.name.value == name), None)
        if scope is None:
            raise LookupError(f"no function '{function}'")
    return scope.children[-1]


def _changed_lines(before: str, after: str) -> tuple[str, str]:
    """The lines that differ, each side on one line."""
    was, now = before.splitlines(), after.splitlines()
    while was and now and was[0] == now[0]:
        del was[0], now[0]
    while was and now and was[-1] == now[-1]:
        del was[-1], now[-1]
    return " ".join(" ".join(was).split()), " ".join(" ".join(now).split())
