"""Runs an exported file over every test row in its own runtime, and compares it with its source."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from edgewright.artifact import Dataset, Exported, Format, ImportedModel, ModelTask
from edgewright.child import run_in_child
from edgewright.errors import ConversionError, InputError, UnsupportedError
from edgewright.measurement import Evaluation, Parity
from edgewright.store import Store
from edgewright.validate.accuracy import accuracy_of, compare_accuracy, per_class
from edgewright.validate.decision import Decision, decision_of
from edgewright.validate.parity import check_outputs, parity
from edgewright.validate.rows import HeldOut, read_test_rows
from edgewright.validate.targets.local import run_bench
from edgewright_runtime.bench import BenchModel, BenchSpec, read_arrays, write_arrays

__all__ = ["evaluate"]

_TIMEOUT_S = 900


def evaluate(model: ImportedModel, dataset: Dataset, exported: Exported) -> Evaluation:
    """Accuracy, parity and the paired loss of an exported file on all test rows.

    The file runs in its own runtime in a child process: LiteRT, ONNX Runtime, Core ML on a Mac; elsewhere an
    ML Program is read by `edgewright.export.mil_evaluator`. What that cannot run is left unmeasured, with the reason.

    Raises:
        ConversionError: the file crashes its runtime, or its outputs cannot be compared (shape, NaN).
        InputError: the dataset holds no usable test split.
    """
    held_out = read_test_rows(dataset, [spec.name for spec in model.inputs])
    truth, source, decision = _source_answers(model, held_out)
    source_accuracy = accuracy_of(model.task, truth, source)
    try:
        outputs, checked_by = _run(model, held_out, exported)
    except UnsupportedError as e:
        return Evaluation(
            artifact=exported.artifact,
            source_accuracy=source_accuracy,
            accuracy=None,
            drop=None,
            parity=Parity(checked_by=None),
            not_measured=(f"accuracy and parity: {e}",),
        )
    check_outputs(held_out.reference, outputs, exported.artifact.path.name)
    answers = _answers(model, outputs, decision)
    classifies = model.task is ModelTask.CLASSIFICATION
    return Evaluation(
        artifact=exported.artifact,
        source_accuracy=source_accuracy,
        accuracy=accuracy_of(model.task, truth, answers),
        drop=compare_accuracy(model.task, truth, source, answers),
        parity=parity(held_out.reference, outputs, checked_by, decision),
        per_class=per_class(
            cast("NDArray[np.int64]", truth),
            cast("NDArray[np.int64]", source),
            cast("NDArray[np.int64]", answers),
            model.labels,
        )
        if classifies
        else (),
    )


Answers = NDArray[np.int64] | NDArray[np.float64]


def _source_answers(model: ImportedModel, held_out: HeldOut) -> tuple[Answers, Answers, Decision | None]:
    """Truth, the source's answers to the same rows, and how its classes follow from its outputs."""
    if model.task is ModelTask.REGRESSION:
        source = held_out.reference[_main_output(model, held_out)]
        return held_out.truth.astype(np.float64), source, None
    if held_out.predicted is None:
        raise InputError("the dataset holds no 'test.predicted': the source classifier's answers are needed")
    order = _by_relevance(model, held_out)
    decision = decision_of(held_out.reference, held_out.predicted, order)
    return held_out.truth.astype(np.int64), held_out.predicted.astype(np.int64), decision


def _main_output(model: ImportedModel, held_out: HeldOut) -> str:
    known = [spec.name for spec in model.outputs if spec.name in held_out.reference]
    return known[0] if known else next(iter(held_out.reference))


def _by_relevance(model: ImportedModel, held_out: HeldOut) -> list[str]:
    """Output names, one score per label first, then the model's own order."""
    names = [s.name for s in model.outputs if s.name in held_out.reference] or list(held_out.reference)
    width = {name: int(np.prod(held_out.reference[name].shape[1:])) for name in names}
    return sorted(names, key=lambda name: width[name] != len(model.labels))


def _answers(model: ImportedModel, outputs: dict[str, NDArray[np.float64]], decision: Decision | None) -> Answers:
    if decision:
        return decision.classes(outputs)
    main = next((spec.name for spec in model.outputs if spec.name in outputs), next(iter(outputs)))
    return outputs[main]


def _run(model: ImportedModel, held_out: HeldOut, exported: Exported) -> tuple[dict[str, NDArray[np.float64]], str]:
    """Outputs (N, ...) float64 by the source's names, and what ran the file."""
    names = list(held_out.inputs), _output_names(model, held_out)
    with Store().workspace() as scratch:
        rows, answers = scratch / "rows.npz", scratch / "outputs.npz"
        write_arrays(rows, held_out.inputs)
        if exported.artifact.format is Format.MLPACKAGE:
            checked_by = _run_ml_program(exported, rows, answers, *names)
        else:
            checked_by = _run_bench(exported, rows, answers, *names)
        return read_arrays(answers), checked_by


def _output_names(model: ImportedModel, held_out: HeldOut) -> list[str]:
    names = [spec.name for spec in model.outputs]
    return names if set(names) == set(held_out.reference) else list(held_out.reference)


def _run_bench(exported: Exported, rows: Path, answers: Path, inputs: Sequence[str], outputs: Sequence[str]) -> str:
    file = BenchModel(str(exported.artifact.path), exported.artifact.format.value, tuple(inputs), tuple(outputs))
    spec = BenchSpec(task="outputs", models=(file,), rows=str(rows), outputs=str(answers))
    answer = run_bench(spec, f"running {exported.artifact.path.name} on the test rows", _TIMEOUT_S)
    return f"{answer['runtime']} {answer['version']}"


def _run_ml_program(
    exported: Exported, rows: Path, answers: Path, inputs: Sequence[str], outputs: Sequence[str]
) -> str:
    ran = run_in_child(
        "edgewright.validate.ml_program:run_ml_program",
        {
            "path": str(exported.artifact.path),
            "rows": str(rows),
            "answers": str(answers),
            "input_names": [[spec.name, name] for spec, name in zip(exported.inputs, inputs, strict=True)],
            "output_names": [[spec.name, name] for spec, name in zip(exported.outputs, outputs, strict=True)],
            "native": sys.platform == "darwin",
        },
        what=f"running {exported.artifact.path.name} on the test rows",
        timeout_s=_TIMEOUT_S,
    )
    if not isinstance(ran.value, str):
        raise ConversionError(f"running {exported.artifact.path.name}: the evaluator said nothing of itself")
    return ran.value
