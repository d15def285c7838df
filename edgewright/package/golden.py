"""Golden vectors: a few real test rows with the exported file's own answers to them."""

import io
import sys
import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgewright.artifact import Dataset, Exported, Format, Precision
from edgewright.child import deferred, run_in_child
from edgewright.errors import InputError, UnsupportedError
from edgewright_runtime.bench.run import read_arrays, write_arrays
from edgewright_runtime.bundle.manifest import Kernels
from edgewright_runtime.bundle.processor import exact_kernels
from edgewright_runtime.predict.encoding import quantize

if TYPE_CHECKING:
    from edgewright.validate.ml_program import run_ml_program
else:
    run_ml_program = deferred("edgewright.validate.ml_program:run_ml_program")

__all__ = ["GOLDEN_NAME", "GoldenVectors", "answers_of", "record", "run_rows"]

GOLDEN_NAME = "golden.npz"
_ROWS = 16
# Of an output's largest magnitude. Other instruction sets sum in another order (float), and round activations to
# the neighbouring step (int8), which the layers behind carry on.
_RELATIVE_TOLERANCE = {
    Precision.FLOAT32: 1e-4,
    Precision.FLOAT16: 1e-2,
    Precision.INT8: 5e-2,
    Precision.DYNAMIC_INT8: 5e-2,
    Precision.INT4: 5e-2,
}
# In steps of the output's own quantization.
_INTEGER_STEPS = 2.0
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the zip format's first day: the bundle's bytes must not depend on the clock

Arrays = dict[str, NDArray[np.generic]]


class GoldenVectors:
    """``inputs`` and ``outputs`` (rows, ...) as stored by the model; ``made_by`` names what ran it.

    ``tolerance`` is never below what the export allowed the file beside its model: a device's kernels round as freely.
    """

    def __init__(self, inputs: Arrays, outputs: Arrays, made_by: str, exported: Exported) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.made_by = made_by
        self.rows = len(next(iter(inputs.values())))
        allowed = dict(exported.tolerance)
        self.tolerance = {
            name: max(_tolerance(array, exported.precision), allowed.get(name, 0.0)) for name, array in outputs.items()
        }

    def save(self, path: Path) -> None:
        """Write ``input.NAME`` and ``output.NAME`` as an ``.npz`` whose bytes are the same every time."""
        named = {f"input.{n}": a for n, a in self.inputs.items()} | {f"output.{n}": a for n, a in self.outputs.items()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, array in sorted(named.items()):
                content = io.BytesIO()
                # An array in Fortran order would be stored as such, with other bytes for the same numbers.
                np.lib.format.write_array(content, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), content.getvalue())


def record(exported: Exported, dataset: Dataset, scratch: Path) -> tuple[GoldenVectors, tuple[str, ...]]:
    """Golden vectors of evenly spaced test rows, and what must be said of them.

    The file is run in a child process by its own runtime; an ML Program by Core ML on a Mac, elsewhere by
    `edgewright.export.mil_evaluator`, or, where that does not know an operation, it is the source model's answers.

    Raises:
        InputError: the dataset has no test rows.
        ConversionError: the file crashes its runtime.
    """
    rows = _test_rows(dataset, exported)
    inputs = {spec.name: quantize(rows[f"test.x.{spec.name}"], spec) for spec in exported.inputs}
    answered = answers_of(exported, inputs, scratch)
    if answered is not None:
        return GoldenVectors(inputs, *answered, exported), ()
    note = "golden vectors hold the source model's answers: nothing here runs the exported file"
    source = {spec.name: rows[f"test.reference.{spec.name}"].astype(spec.dtype) for spec in exported.outputs}
    return GoldenVectors(inputs, source, "the source model", exported), (note,)


def answers_of(exported: Exported, rows: Arrays, scratch: Path) -> tuple[Arrays, str] | None:
    """The exported file's outputs (N, ...) for rows as the model stores them, and what ran it, in a child process.

    None for an ML Program with an operation that `edgewright.export.mil_evaluator` does not know.

    Raises:
        ConversionError: the file crashes its runtime.
    """
    asked, answered = scratch / "rows.npz", scratch / "answers.npz"
    write_arrays(asked, rows)
    if exported.artifact.format is Format.MLPACKAGE:
        try:
            made_by = _run_ml_program(exported, asked, answered)
        except UnsupportedError:
            return None
    else:
        made_by = _run_in_runtime(exported, asked, answered)
    outputs = read_arrays(answered)
    return {spec.name: outputs[spec.name].astype(spec.dtype) for spec in exported.outputs}, made_by


def run_rows(
    path: Path, form: Format, inputs: Sequence[str], outputs: Sequence[str], rows: Path, answers: Path, kernels: Kernels
) -> str:
    """The child's side: run every row, write the outputs, and return what ran them."""
    from edgewright_runtime.backends import load
    from edgewright_runtime.backends import run_rows as run

    backend = load(path, form.value, input_names=inputs, output_names=outputs, kernels=kernels)
    arrays: Mapping[str, NDArray[np.generic]] = run(backend, read_arrays(rows))
    write_arrays(answers, {name: arrays[name] for name in outputs})
    return f"{backend.name} {backend.version}"


def _run_in_runtime(exported: Exported, rows: Path, answers: Path) -> str:
    inputs, outputs = _names(exported)
    kernels = exact_kernels(exported.made_for)
    file = exported.artifact
    return _in_child(partial(run_rows, file.path, file.format, inputs, outputs, rows, answers, kernels), answers)


def _run_ml_program(exported: Exported, rows: Path, answers: Path) -> str:
    inputs, outputs = _names(exported)
    job = partial(
        run_ml_program,
        exported.artifact.path,
        rows=rows,
        answers=answers,
        input_names=inputs,
        output_names=outputs,
        native=sys.platform == "darwin",
    )
    return _in_child(job, answers)


def _names(exported: Exported) -> tuple[list[str], list[str]]:
    return [spec.name for spec in exported.inputs], [spec.name for spec in exported.outputs]


def _in_child(job: "partial[str]", answers: Path) -> str:
    what = "running the exported file on real rows"
    return run_in_child(job, returns=str, what=what, writes=[answers.parent]).value


def _test_rows(dataset: Dataset, exported: Exported) -> Arrays:
    names = [f"test.x.{spec.name}" for spec in exported.inputs]
    wanted = {*names, *(f"test.reference.{spec.name}" for spec in exported.outputs)}
    with np.load(dataset.artifact.path, allow_pickle=False) as stored:
        missing = set(names) - set(stored.files)
        if missing:
            raise InputError(f"dataset {dataset.artifact.path}: arrays {sorted(missing)} are missing")
        count = len(stored[names[0]])
        if not count:
            raise InputError(f"dataset {dataset.artifact.path}: no test rows, so no golden vectors")
        chosen = np.unique(np.linspace(0, count - 1, min(count, _ROWS)).astype(np.int64))
        return {name: stored[name][chosen] for name in sorted(wanted & set(stored.files))}


def _tolerance(output: NDArray[np.generic], precision: Precision) -> float:
    if output.dtype.kind != "f":
        return _INTEGER_STEPS if precision is Precision.INT8 else 0.0
    # Of what is finite: a share of a mask's infinity would allow anything.
    magnitude = float(np.abs(output[np.isfinite(output)].astype(np.float64)).max(initial=0.0))
    # An output of zeros would else allow no rounding at all.
    return _RELATIVE_TOLERANCE[precision] * max(magnitude, 1e-6)
