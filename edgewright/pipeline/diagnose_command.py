"""``edgewright diagnose``: where an exported file diverges from its model."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from edgewright.artifact import Precision
from edgewright.data import load_data_spec
from edgewright.errors import InputError
from edgewright.pipeline.shapes import parse_shapes
from edgewright.profile import Platform
from edgewright.progress import progress
from edgewright.store import Store, replace_file
from edgewright.terminal import begun, terminal

if TYPE_CHECKING:
    from edgewright.validate.diagnosis import Diagnosed

__all__ = ["diagnose"]

_STYLES = {"wrong": "red", "comes in wrong": "yellow", "within another": "dim"}

console = terminal()


def diagnose(
    model: Annotated[Path, typer.Argument(help="The source model, as `deploy` takes it.")],
    data: Annotated[Path, typer.Option(help="Real data: .csv, .parquet, .npz, or a .yaml that describes one.")],
    platform: Annotated[Platform, typer.Option(help="The platform that the file is for.")],
    target: Annotated[str | None, typer.Option(help="The column with the true answers.")] = None,
    precision: Annotated[str, typer.Option(help="What to export: float32, float16 or int8.")] = "float32",
    exported: Annotated[
        Path | None, typer.Option(help="A .onnx, .tflite or .mlpackage that anybody made of the model.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Where the page with the plot goes.")] = None,
    shape: Annotated[list[str] | None, typer.Option(help="Sizes of an ONNX input's free axes: name=1,3,224.")] = None,
) -> None:
    """Compare an exported file with its model, layer by layer, and name the first operator that is wrong.

    Exit code 0: they agree on real rows; 1: they do not.
    """
    from edgewright.pipeline.steps_shown import steps_shown
    from edgewright.report.diagnosis import diagnosis_html
    from edgewright.validate.diagnosis import diagnose as run

    for path, what in ((model, "model"), (data, "data"), *(((exported, "exported file"),) if exported else ())):
        if not path.exists():
            raise InputError(f"{what} {path}: no such file")
    spec = load_data_spec(data.absolute(), target)
    choices = parse_shapes(shape or ())
    if len(choices) > 1:
        raise InputError(f"--shape {' '.join(shape or ())}: diagnose looks at one choice of sizes")
    spec = spec.model_copy(update={"shapes": next(iter(choices.values()))} if shape else {})
    # A store that goes with the command: nothing that is made here is deployed.
    with tempfile.TemporaryDirectory() as folder, steps_shown(), progress.during(f"Diagnosing {model.name}"):
        comparison = run(model.absolute(), spec, platform, _precision(precision), exported, Store(Path(folder)))
    console.print(_table(comparison))
    for name, difference in comparison.outputs.items():
        console.print(f"output {name}: {difference}", highlight=False)
    for note in comparison.notes:
        console.print(note, style="dim", soft_wrap=True, highlight=False)
    if html is not None:
        replace_file(html.absolute(), diagnosis_html(comparison, f"{comparison.file}, made of {model.name}").encode())
        console.print(f"plot: {html.absolute()}", soft_wrap=True, highlight=False)
    if comparison.holds:
        message = f"on {comparison.rows} rows (limit: {comparison.limit})"
        console.print(begun("agrees", message, "green"), soft_wrap=True, highlight=False)
        return
    place = comparison.diagnosis.sentence()
    console.print(begun("disagrees", f"(limit: {comparison.limit}): {place}"), soft_wrap=True, highlight=False)
    raise typer.Exit(1)


def _precision(name: str) -> Precision:
    known = (Precision.FLOAT32, Precision.FLOAT16, Precision.INT8)
    if name not in known:
        raise InputError(f"--precision {name}: one of {', '.join(known)}")
    return Precision(name)


def _table(comparison: "Diagnosed") -> Table:
    from edgewright.report.diagnosis import HEADS, cells

    table = Table(*HEADS, title=comparison.file)
    for layer in comparison.diagnosis.layers:
        row = cells(comparison, layer)
        table.add_row(*row, style=_STYLES.get(row[-1]))
    return table
