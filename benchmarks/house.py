"""The house in figures: files, lines, functions, and the imports between rooms, written into ``docs/architecture.md``.

    PYTHONPATH=. python benchmarks/house.py            --check: exit code 1 where the page says otherwise

A number on the page may be off by 5%, so that not every line of code changes a page; circles and packages may not.

Circles are counted among the modules and packages that stand beside one another, see ``acyclic_siblings`` of
import-linter; code of imports for type checkers alone is counted with the rest.
"""

import argparse
import ast
import re
import sys
from pathlib import Path

import grimp
import numpy as np

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
PACKAGES = ("flows", "tasks", "edgewright", "edgewright_runtime")
_TOLERANCE = 0.05
_BEGIN, _END = "<!-- figures:begin -->\n", "<!-- figures:end -->"


def main() -> int:
    """Write the table, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    page = PAGE.read_text()
    before, _, rest = page.partition(_BEGIN)
    old, _, after = rest.partition(_END)
    table = figures()
    if parser.parse_args().check:
        return int(not is_current(old, table))
    PAGE.write_text(f"{before}{_BEGIN}{table}{_END}{after}")
    print(table, end="")
    return 0


def is_current(page: str, table: str) -> bool:
    """Whether two tables have the same words, and numbers that are 5% or one apart at most."""
    number = re.compile(r"\d+")
    if number.sub("", page) != number.sub("", table):
        return False
    pairs = zip(map(int, number.findall(page)), map(int, number.findall(table)), strict=True)
    return all(abs(old - new) <= max(1, _TOLERANCE * new) for old, new in pairs)


def figures() -> str:
    """A table in Markdown, a row for each package."""
    head = (
        "| package | files | lines | lines of a file, p50 / p90 | lines of a function, p50 / p90 | rooms in circles |"
    )
    rows = [head, "| --- | --- | --- | --- | --- | --- |"]
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    for package in PACKAGES:
        files = [path.read_text() for path in sorted((ROOT / package).rglob("*.py"))]
        lines = [content.count("\n") for content in files]
        functions = [size for content in files for size in _function_lines(content)]
        circles = _in_circles(graph, package)
        rows.append(
            f"| `{package}` | {len(files)} | {sum(lines)} | {_spread(lines)} | {_spread(functions)} | "
            f"{', '.join(f'`{room}`' for room in circles) or 'none'} |"
        )
    return "".join(f"{row}\n" for row in rows)


def _function_lines(content: str) -> list[int]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = [node for node in ast.walk(ast.parse(content)) if isinstance(node, kinds)]
    return [(node.end_lineno or node.lineno) - node.lineno + 1 for node in functions]


def _spread(sizes: list[int]) -> str:
    return " / ".join(f"{np.percentile(sizes, share):.0f}" for share in (50, 90)) if sizes else "-"


def _in_circles(graph: grimp.ImportGraph, package: str) -> list[str]:
    """The packages whose children import one another in a circle."""
    parents = [package, *(module for module in graph.find_descendants(package) if graph.find_children(module))]
    return sorted(parent for parent in parents if _has_circle(graph, parent))


def _has_circle(graph: grimp.ImportGraph, parent: str) -> bool:
    room = {
        module: child for child in graph.find_children(parent) for module in (child, *graph.find_descendants(child))
    }
    reads = {child: set[str]() for child in room.values()}
    for module, child in room.items():
        reads[child] |= {room[read] for read in graph.find_modules_directly_imported_by(module) if read in room}
    rest = {child: names - {child} for child, names in reads.items()}
    while free := {child for child, names in rest.items() if not names & rest.keys()}:
        rest = {child: names for child, names in rest.items() if child not in free}
    return bool(rest)


if __name__ == "__main__":
    sys.exit(main())
