"""One list of figures, and one form of each: no renderer formats a figure by itself."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewright.measurement import BudgetLine, Emulation, Latency
from edgewright.report.figures import FIGURES, budget_rows, emulated_memory_text, figure_text, percentiles

ROOT = Path(__file__).parents[2]
RENDERERS = sorted(
    path
    for folder in ("edgewright/report", "edgewright/pipeline", "flows", "tasks")
    for path in (ROOT / folder).rglob("*.py")
    if path.name != "figures.py"
)
ATTRIBUTES = {
    *("p50_ms", "p95_ms", "p99_ms", "load_ms", "first_ms", "peak_memory_mb", "added_memory_mb"),
    *("max_absolute", "agreement", "joules"),
}


def formatted_attributes(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FormattedValue) and node.format_spec is not None:
            yield from (part.attr for part in ast.walk(node.value) if isinstance(part, ast.Attribute))


@pytest.mark.parametrize("path", RENDERERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_renderer_takes_the_form_of_a_figure_from_the_list(path: Path) -> None:
    assert not ATTRIBUTES & set(formatted_attributes(ast.parse(path.read_text())))


def test_a_figure_that_is_formatted_by_hand_is_seen() -> None:
    by_hand = ast.parse("f'{latency.p50_ms:.3f} {100 * parity.agreement:.1f} {name}'")
    assert set(formatted_attributes(by_hand)) == {"p50_ms", "agreement"}


def test_each_figure_has_a_name_of_its_own() -> None:
    assert len({figure.name for figure in FIGURES}) == len(FIGURES)


def test_a_figure_reads_alike_wherever_it_stands() -> None:
    assert figure_text("peak_memory_mb", 61.2) == "61"
    assert percentiles(Latency(p50_ms=0.12345, p95_ms=2, mean_ms=1, min_ms=0.1, runs=9)) == "0.1235 / 2"
    emulation = Emulation(core="cortex-a53", rows=1, device_memory_mb=512, peak_memory_mb=61.2)
    assert emulated_memory_text(emulation) == "61 MB of 512 MB"
    assert emulated_memory_text(emulation.model_copy(update={"peak_memory_mb": None})) == ""


@pytest.mark.parametrize(
    ("measured", "row"),
    [(2.0, ("2 MB", "+1 MB")), (4.0, ("4 MB", "-1 MB")), (None, ("not measured", ""))],
)
def test_a_budget_line_has_its_margin_with_its_sign(measured: float | None, row: tuple[str, str]) -> None:
    class Report:
        lines = (BudgetLine(figure="size", limit=3, measured=measured, unit="MB", status="met"),)

    (cells,) = budget_rows(Report())
    assert (cells["limit"], cells["measured"], cells["margin"]) == ("3 MB", *row)
