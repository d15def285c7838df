"""Runs a Core ML ML Program over rows; in a child process only, since coremltools is heavy."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgewright.errors import UnsupportedError
from edgewright_runtime.bench.run import read_arrays, write_arrays
from edgewright_runtime.errors import BackendUnavailableError

__all__ = ["run_ml_program"]

Arrays = dict[str, np.ndarray]


def run_ml_program(
    path: Path, *, rows: Path, answers: Path, input_names: Sequence[str], output_names: Sequence[str], native: bool
) -> str:
    """Write the outputs of every row to ``answers`` (float64, by name) and return what ran the model.

    ``native`` asks Core ML itself, which macOS alone has.

    Raises:
        UnsupportedError: the evaluator does not know an operation of the program, or this macOS is too old for it.
    """
    held = read_arrays(rows)
    feeds = {name: held[name] for name in input_names}
    outputs = _predict(path, feeds) if native else _interpret(path, feeds)
    write_arrays(answers, {name: np.asarray(outputs[name], np.float64) for name in output_names})
    return "Core ML" if native else "the ML Program evaluator of Edgewright, not Core ML itself"


def _interpret(path: Path, feeds: Arrays) -> Arrays:
    import torch

    from edgewright.export.mil_evaluator import evaluate

    # One row at a time is too little work to share: two threads were measured 13 times slower than one.
    torch.set_num_threads(1)
    return evaluate(path, feeds)


def _predict(path: Path, feeds: Arrays) -> Arrays:
    from edgewright.validate.core_ml import CoreMLPackage

    with tempfile.TemporaryDirectory() as scratch:
        try:
            # The answers are compared, not timed: whichever unit computes them will do.
            model = CoreMLPackage(path, Path(scratch)).load("ALL")
        except BackendUnavailableError as e:
            raise UnsupportedError(str(e)) from e
        each = [model.scores(model.infer(feed)) for feed in model.feeds(feeds)]
    return {name: np.concatenate([row[name] for row in each]) for name in each[0]}
