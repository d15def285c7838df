"""Runs an exported file over every test row in its own runtime, and compares it with its source."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgewright.artifact import Artifact, Dataset, Exported, Format, ImportedModel, ModelTask
from edgewright.child import deferred, run_in_child
from edgewright.errors import InputError, UnsupportedError
from edgewright.measurement import Evaluation, Parity
from edgewright.statistics.accuracy import RowAnswers
from edgewright.store import Store
from edgewright.validate.decision import Decision, decision_of
from edgewright.validate.judging import answers_in, judged, truth_in
from edgewright.validate.parity import check_outputs, parity
from edgewright.validate.rows import HeldOut, Split, read_rows
from edgewright.validate.targets.answers import expect_figures
from edgewright.validate.targets.local import run_bench
from edgewright_runtime.bench.answer import OutputFigures
from edgewright_runtime.bench.run import BenchModel, BenchSpec, read_arrays, write_arrays
from edgewright_runtime.bundle.manifest import Kernels
from edgewright_runtime.bundle.processor import exact_kernels

if TYPE_CHECKING:
    from edgewright.validate.graph_answers import run_graph
    from edgewright.validate.ml_program import run_ml_program
else:
    run_graph = deferred("edgewright.validate.graph_answers:run_graph")
    run_ml_program = deferred("edgewright.validate.ml_program:run_ml_program")

__all__ = ["evaluate", "run_package", "source_answers"]


def evaluate(
    model: ImportedModel, dataset: Dataset, exported: Exported, split: Split = "test", *, timeout_s: float = 900
) -> Evaluation:
    """Accuracy, parity and the paired loss of an exported file on all rows of a split.

    The file runs in its own runtime in a child process: LiteRT, ONNX Runtime, Core ML on a Mac; elsewhere an
    ML Program is read by `edgewright.export.mil_evaluator`, and what that does not know is left unmeasured, with the
    reason.
    Choices between techniques use ``split="validation"``: figures to be published come from rows no choice saw.

    Raises:
        ConversionError: the file crashes its runtime, or its outputs cannot be compared (shape, NaN).
        InputError: the dataset holds no usable rows for the split.
        UnsupportedError: the runtime that loads this format is not installed here.
    """
    held_out, decision = _with_source_answers(model, dataset, split, timeout_s)
    try:
        kernels = exact_kernels(exported.made_for)
        outputs, checked_by = _run(held_out, exported.artifact, list(held_out.reference), timeout_s, kernels=kernels)
    except UnsupportedError as e:
        # Core ML is on a Mac alone, so a missing figure of its files is expected; a missing runtime of others is not.
        if exported.artifact.format is not Format.MLPACKAGE:
            raise
        return Evaluation(
            artifact=exported.artifact,
            source_accuracy=judged(model, held_out, decision, None, timeout_s).source,
            accuracy=None,
            drop=None,
            parity=Parity(checked_by=None),
            not_measured=(f"accuracy and parity: {e}",),
        )
    # Before any figure, none of which NaN or another shape would leave a meaning.
    check_outputs(held_out.reference, outputs, exported.artifact.path.name)
    judgement = judged(model, held_out, decision, outputs, timeout_s)
    return Evaluation(
        artifact=exported.artifact,
        source_accuracy=judgement.source,
        accuracy=judgement.accuracy,
        drop=judgement.drop,
        parity=parity(held_out.reference, outputs, checked_by, decision),
        per_class=judgement.per_class,
    )


def source_answers(
    model: ImportedModel, dataset: Dataset, split: Split, *, timeout_s: float = 900
) -> tuple[RowAnswers, RowAnswers]:
    """The truth of a split's rows, and the source's own answers: class indices (N,), or a regressor's numbers.

    Raises:
        ConversionError, InputError: as `evaluate`.
    """
    held_out, decision = _with_source_answers(model, dataset, split, timeout_s)
    return truth_in(model, held_out), answers_in(model, held_out.reference, decision, held_out.predicted)


def _with_source_answers(
    model: ImportedModel, dataset: Dataset, split: Split, timeout_s: float
) -> tuple[HeldOut, Decision | None]:
    """The rows with the source's answers, and how a classifier's classes follow from its outputs.

    Where the dataset holds none of the source's own answers for a split, the imported model gives them: it was compared
    with the source at intake.
    """
    order = [spec.name for spec in model.inputs]
    held_out = read_rows(dataset, split, order)
    # What the source predicts is known of test rows only, also where its outputs are known of others.
    test = held_out if split == "test" else read_rows(dataset, "test", order)
    decision = _decision(model, test)
    if not held_out.reference:
        if model.inside is None:
            raise InputError(
                f"the dataset holds no answers of the source to its {split} rows, and nothing here gives them"
            )
        outputs, _ = _run(held_out, model.inside, _in_order(model, test), timeout_s, model.inputs[0].shape[0])
        held_out = replace(held_out, reference=outputs)
    return replace(held_out, reference={n: held_out.reference[n] for n in _in_order(model, held_out)}), decision


def _decision(model: ImportedModel, held_out: HeldOut) -> Decision | None:
    if model.task is not ModelTask.CLASSIFICATION:
        return None
    if held_out.predicted is None:
        raise InputError("the dataset holds no 'test.predicted': the source classifier's answers are needed")
    width = {name: int(np.prod(array.shape[1:])) for name, array in held_out.reference.items()}
    # One score per label decides more often than any other output.
    order = sorted(_in_order(model, held_out), key=lambda name: width[name] != len(model.labels))
    return decision_of(held_out.reference, held_out.predicted, order)


def _in_order(model: ImportedModel, held_out: HeldOut) -> list[str]:
    """The reference's output names in the model's own order: files keep that order, some converters no names."""
    names = [spec.name for spec in model.outputs]
    return names if set(names) == set(held_out.reference) else list(held_out.reference)


def _run(
    held_out: HeldOut,
    file: Artifact,
    outputs: Sequence[str],
    timeout_s: float,
    batch: int = -1,
    kernels: Kernels = Kernels(),  # noqa: B008 - frozen
) -> tuple[dict[str, NDArray[np.float64]], str]:
    """Outputs (N, ...) float64 by the given names, and what ran the file; ``batch`` is that of a torch graph."""
    inputs = list(held_out.inputs)
    with Store().workspace() as scratch:
        rows, answers = scratch / "rows.npz", scratch / "outputs.npz"
        write_arrays(rows, held_out.inputs)
        runner: Callable[..., str] = partial(_run_bench, kernels)
        if file.format in {Format.MLPACKAGE, Format.TORCH_GRAPH}:
            runner = run_package if file.format is Format.MLPACKAGE else partial(_run_graph, batch)
        checked_by = runner(file, (rows, answers), inputs, outputs, timeout_s)
        return read_arrays(answers), checked_by


def _run_graph(
    batch: int,
    file: Artifact,
    paths: tuple[Path, Path],
    inputs: Sequence[str],
    outputs: Sequence[str],
    timeout_s: float,
) -> str:
    names = {"input_names": inputs, "output_names": outputs}
    job = partial(run_graph, file.path, rows=paths[0], answers=paths[1], batch=batch, **names)
    what = f"running {file.path.name} on the rows"
    return run_in_child(job, returns=str, what=what, timeout_s=timeout_s, writes=[paths[1].parent]).value


def _run_bench(
    kernels: Kernels,
    file: Artifact,
    paths: tuple[Path, Path],
    inputs: Sequence[str],
    outputs: Sequence[str],
    timeout_s: float,
) -> str:
    named = BenchModel(str(file.path), file.format.value, tuple(inputs), tuple(outputs))
    spec = BenchSpec(task="outputs", models=(named,), rows=str(paths[0]), outputs=str(paths[1]), kernels=kernels)
    what = f"running {file.path.name} on the test rows"
    return expect_figures(run_bench(spec, what, timeout_s), OutputFigures, what).figures.ran_by


def run_package(
    file: Artifact, paths: tuple[Path, Path], inputs: Sequence[str], outputs: Sequence[str], timeout_s: float
) -> str:
    """Run a Core ML package over the rows in the first of ``paths``, outputs go to the second; what ran it.

    Raises:
        UnsupportedError: this is no Mac, and the evaluator does not know an operation of the program.
        ConversionError: it crashes, or refuses the rows.
    """
    names = {"input_names": inputs, "output_names": outputs}
    native = sys.platform == "darwin"
    job = partial(run_ml_program, file.path, rows=paths[0], answers=paths[1], native=native, **names)
    what = f"running {file.path.name} on the test rows"
    return run_in_child(job, returns=str, what=what, timeout_s=timeout_s, writes=[paths[1].parent]).value
