"""The final table, on a terminal: one line for each deployment. No ML framework is imported here."""

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from edgewright.measurement import Measurement
from edgewright.pipeline.bundle_check import DeviceCheck, check_rows
from edgewright.pipeline.result import DeploymentResult
from edgewright.plain_text import markdown_text
from edgewright.report.comparison import ComparedRun
from edgewright.report.figures import accuracy_text, agreement_text, figure_text, formatted, kilobytes, percentiles

__all__ = [
    "COLUMNS",
    "check_table",
    "comparison_table",
    "explanation",
    "result_cells",
    "results_markdown",
    "results_table",
]

COLUMNS = (
    "model",
    "platform",
    "format",
    "size before",
    "size after",
    "download",
    "accuracy before (95%)",
    "accuracy after (95%)",
    "p50 / p95 ms",
    "peak MB",
    "verdict",
)
# Below this many characters a row's cells would be cut to their first letters.
_MIN_WIDTH = 168
_NOT_REACHED = "-"


def results_table(results: Sequence[DeploymentResult], width: int) -> Table:
    """One row a deployment, or one column where ``width`` characters are too few for that.

    Sizes are of the file that the device loads; before is its float32 export. A figure that no deployment came to is
    left out.
    """
    cells = [result_cells(result) for result in results]
    # A column that is empty for all says nothing.
    reached = [i for i in range(len(COLUMNS)) if any(row[i] != _NOT_REACHED for row in cells)]
    if width >= _MIN_WIDTH:
        rows = ([row[i] for i in reached] for row in cells)
        return _table("Deployments", [COLUMNS[i] for i in reached], rows)
    rows = ([COLUMNS[i], *(row[i] for row in cells)] for i in reached[1:])
    return _table("Deployments", ["", *(row[0] for row in cells)], rows)


def _table(title: str, header: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """Of texts as they stand: as `Text` none is taken for markup, whatever the console that prints it."""
    table = Table(title=title)
    for name in header:
        table.add_column(Text(name))
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def results_markdown(results: Sequence[DeploymentResult]) -> str:
    """The same table for a page."""
    rows = [tuple(markdown_text(cell) for cell in result_cells(result)) for result in results]
    return "".join(f"| {' | '.join(line)} |\n" for line in (COLUMNS, tuple("---" for _ in COLUMNS), *rows))


def check_table(checks: Sequence[DeviceCheck]) -> Table:
    """A column for each device that a bundle was tried on, a row for each figure."""
    rows = check_rows(checks)
    figures = ([name, *(row[name] for row in rows)] for name in list(rows[0])[1:])
    return _table("Bundle on devices", ["", *(row["device"] for row in rows)], figures)


def comparison_table(runs: Sequence[ComparedRun]) -> Table:
    """A column for each run, a row for each figure that any of them has."""
    figures = (
        [figure, *(formatted(run.metrics.get(figure), "{:.6g}") for run in runs)]
        for figure in sorted({name for run in runs for name in run.metrics})
    )
    return _table("Runs", ["", *(f"{run.name}\n{run.run_id[:8]}" for run in runs)], figures)


def result_cells(result: DeploymentResult) -> tuple[str, ...]:
    """The cells of one row; "-" where a stage was not reached, "not measured" where it could not be."""
    optimization, report = result.optimization, result.report
    before, after = (optimization.baseline, optimization.candidate) if optimization else (None, None)
    measured = report.candidate if report else None
    return (
        optimization.model.name if optimization else _NOT_REACHED,
        result.platform.value,
        f"{after.artifact.format.value} {after.precision.value}" if after else _NOT_REACHED,
        kilobytes(before.artifact.size_bytes) if before else _NOT_REACHED,
        kilobytes(after.artifact.size_bytes) if after else _NOT_REACHED,
        kilobytes(measured.download_bytes) if measured else _NOT_REACHED,
        accuracy_text(report.source_accuracy) if report else _NOT_REACHED,
        accuracy_text(measured.accuracy) if measured else _NOT_REACHED,
        percentiles(measured.latency) if measured else _NOT_REACHED,
        figure_text("peak_memory_mb", measured.peak_memory_mb) if measured else _NOT_REACHED,
        _verdict(result),
    )


def explanation(result: DeploymentResult) -> str:
    """What the table has no room for: steps, parity, limits, notes and where everything lies."""
    lines: list[str] = []
    if result.optimization:
        lines += [f"note: {note}" for note in (*result.optimization.model.notes, *result.optimization.dataset.notes)]
        for step in result.optimization.steps:
            lines.append(f"{step.technique}: {'kept' if step.kept else 'no benefit'}: {step.reason}")
        sizes = (f"{name} {kilobytes(size)}" for name, size in result.optimization.sizes())
        lines.append(f"on disk: {', '.join(sizes)}")
    if result.report:
        lines += [f"warning: {warning}" for warning in result.report.warnings]
        lines.append(f"parity: {_parity(result.report.candidate)}")
        lines += [f"budget: {line.sentence()}" for line in result.report.lines]
        lines += [f"not measured: {reason}" for reason in result.report.candidate.not_measured]
        lines += [f"note: {note}" for note in result.report.notes]
    if result.page:
        lines.append(f"report: {result.page}")
    if result.bundle:
        lines.append(f"bundle: {result.bundle.artifact.path}")
    if result.release:
        lines.append(
            f"release: version {result.release.version} of '{result.release.model}' for {result.release.platform} on "
            f"{result.release.channel} in {result.release.repository}"
        )
    if result.tracking:
        where = f"run {result.tracking.run_id}" if result.tracking.run_id else f"waiting in {result.tracking.pending}"
        lines.append(f"MLflow: {where} ({result.tracking.uri})")
    return "\n".join(lines)


def _parity(measured: Measurement) -> str:
    parity = measured.parity
    if parity.checked_by is None:
        return f"not checked: {parity.explanation}"
    agreed = "" if parity.agreement is None else f", same class on {agreement_text(parity.agreement)} of rows"
    largest = figure_text("max_difference", parity.max_absolute)
    summary = f"{parity.rows} rows by {parity.checked_by}, largest difference {largest}{agreed}"
    return f"{summary}; {parity.explanation}" if parity.explanation else summary


def _verdict(result: DeploymentResult) -> str:
    # First, as a missed limit is a failure, too.
    if result.over_budget:
        return "over budget"
    if result.status == "failed":
        return f"failed after {len(result.completed_stages)} of 5 stages"
    unchecked = [line.figure for line in result.report.lines if line.status == "not measured"] if result.report else []
    if unchecked:
        return f"released; not checked: {', '.join(unchecked)}"
    return "released"
