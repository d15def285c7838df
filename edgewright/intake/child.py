"""The child's side of intake: load the source, encode the data, export, import, compare, and only then store.

Each source becomes a `Source`, what every later step needs to know of it. Runs in a child process.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewright.artifact import Artifact, Dataset, Format, ImportedModel, Intake, ModelTask
from edgewright.data import NAMED_METRICS, DataSpec
from edgewright.errors import EdgewrightError, InputError, UnsupportedError
from edgewright.failures import one_line
from edgewright.intake.formats import detect_format
from edgewright.intake.inside import Inside, brought_inside
from edgewright.intake.onnx_nodes import float32_reason
from edgewright.intake.opening import opened
from edgewright.intake.source import OtherSplit, Source
from edgewright.statistics.metric import check_answers
from edgewright.store import Store

__all__ = ["check", "take_in"]

_OTHER_SPLITS: tuple[OtherSplit, ...] = ("validation", "calibration")


def check(model: Path, data: DataSpec) -> None:
    """Load the model, read and encode the data, and forget both; raises what `edgewright.intake.preflight` says."""
    _opened(model, data, checking=True)


def take_in(model: Path, data: DataSpec, store: Path, name: str) -> Intake:
    """`edgewright.intake.take_in`, into a store of its own."""
    place = Store(store)
    source = _opened(model, data, checking=False)
    reference, predicted = source.answers()
    # What depends on another size that was free is known only by what the model answers.
    source.outputs = tuple(
        dataclasses.replace(tensor, shape=(*tensor.shape[:1], *answer.shape[1:]))
        for tensor, answer in zip(source.outputs, reference, strict=True)
    )
    source.notes += _not_finite(source, reference)
    _check_metric(source, reference, data)
    inside = brought_inside(source, name, reference)
    with place.workspace() as scratch:
        data_file = scratch / "data.npz"
        np.savez(data_file, **_arrays(source, reference, predicted))
        origin = place.put(model, detect_format(model))
        onnx_artifact, graph, refusal = _stored(inside, place, origin, scratch)
        rows = place.put(data_file, Format.DATASET, parent=origin.digest)
    reason = "" if inside.onnx is None else float32_reason(inside.onnx)
    return Intake(
        model=_described(name, source, (origin, onnx_artifact, graph), refusal, reason, data),
        dataset=Dataset(
            artifact=rows,
            calibration_rows=len(source.samples.rows.calibration),
            validation_rows=len(source.samples.rows.validation),
            test_rows=len(source.samples.rows.test),
            notes=source.samples.notes,
        ),
    )


def _check_metric(source: Source, reference: Sequence[NDArray[np.float64]], data: DataSpec) -> None:
    """Before any work is done: whether a metric by name can read these outputs and answers."""
    named = NAMED_METRICS.get(data.metric or "")
    # Of classes the task's own checks of the answers are enough.
    if named is None or named.task is ModelTask.CLASSIFICATION:
        return
    outputs = {tensor.name: answers for tensor, answers in zip(source.outputs, reference, strict=True)}
    check_answers(str(data.metric), outputs, source.samples.y[source.samples.rows.test])


def _not_finite(source: Source, reference: Sequence[NDArray[np.float64]]) -> tuple[str, ...]:
    """A note on each output in which the source itself answers test rows with NaN or infinity."""
    notes = []
    for tensor, answers in zip(source.outputs, reference, strict=True):
        rows = int((~np.isfinite(answers.reshape(len(answers), -1))).any(axis=1).sum())
        if rows:
            notes.append(
                f"the source itself answers NaN or infinity in {rows} of {len(answers)} test rows (output "
                f"'{tensor.name}'): a value counts as agreeing there only where both are NaN, or the same infinity"
            )
    return tuple(notes)


def _stored(
    inside: Inside, store: Store, origin: Artifact, scratch: Path
) -> tuple[Artifact | None, Artifact | None, str | None]:
    """ONNX and the torch graph, each where there is one, and why there is no graph."""
    onnx_file, graph_file = scratch / "model.onnx", scratch / "graph.safetensors"
    onnx_artifact = None
    if inside.onnx is not None:
        import onnx

        onnx.save(inside.onnx, onnx_file)
        onnx_artifact = store.put(onnx_file, Format.ONNX, parent=origin.digest)
    if inside.graph is None:
        return onnx_artifact, None, inside.refusal
    from edgewright.intake import torch_graph

    try:
        torch_graph.save(inside.graph, graph_file)
    except UnsupportedError as e:
        # Without ONNX the graph was the only way inside.
        if onnx_artifact is None:
            raise
        return onnx_artifact, None, str(e)
    return onnx_artifact, store.put(graph_file, Format.TORCH_GRAPH, parent=(onnx_artifact or origin).digest), None


def _opened(path: Path, spec: DataSpec, *, checking: bool) -> Source:
    try:
        return opened(path, detect_format(path), spec, checking=checking)
    except EdgewrightError:
        raise
    except Exception as e:  # what a damaged file makes a framework raise has no limit
        raise InputError(f"{path}: damaged, or not what it seems: {type(e).__name__}: {one_line(e, 200)}") from e


def _arrays(
    source: Source, reference: Sequence[NDArray[np.float64]], predicted: NDArray[Any] | None
) -> Mapping[str, Any]:
    """The arrays of `edgewright.artifact.Dataset`."""
    samples = source.samples
    arrays: dict[str, Any] = {}
    for split in ("train", "calibration", "validation", "test"):
        rows = getattr(samples.rows, split)
        for name, values in samples.inputs.items():
            arrays[f"{split}.x.{name}"] = values[rows]
        # Another name, or later steps would take for classes or values what they do not know.
        arrays[f"{split}.{'y' if samples.known else 'answers'}"] = samples.y[rows]
    for split in _OTHER_SPLITS:
        answers = source.answers_to(split)
        if answers is not None:
            arrays |= {f"{split}.reference.{t.name}": answer for t, answer in zip(source.outputs, answers, strict=True)}
    arrays |= {f"test.reference.{t.name}": answer for t, answer in zip(source.outputs, reference, strict=True)}
    if predicted is not None:
        arrays["test.predicted"] = predicted
    if source.raw is not None:
        arrays["test.raw"] = source.raw
    return arrays


def _task(source: Source, data: DataSpec) -> ModelTask:
    if not source.samples.known:
        return ModelTask.NONE
    return data.task or (ModelTask.REGRESSION if source.labels is None else ModelTask.CLASSIFICATION)


def _described(
    name: str,
    source: Source,
    artifacts: tuple[Artifact, Artifact | None, Artifact | None],
    refusal: str | None,
    reason: str,
    data: DataSpec,
) -> ImportedModel:
    origin, onnx_artifact, graph = artifacts
    return ImportedModel(
        name=name,
        source=origin,
        onnx=onnx_artifact,
        graph=graph,
        graph_refusal=refusal,
        inputs=source.inputs,
        outputs=source.outputs,
        task=_task(source, data),
        metric=data.chosen_metric,
        labels=source.labels or (),
        preprocessing=source.preprocessing,
        float32_only=source.float32_only,
        float32_reason=reason,
        single_numbers=dict(source.single_numbers),
        notes=tuple(source.notes),
    )
