"""The child's side of the door: load the source, encode the data, export, import, compare, and only then store.

Each source becomes a `Source`, what every later step needs to know of it. Runs in a child process.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgewright.artifact import Artifact, Dataset, Format, ImportedModel, Intake, ModelTask
from edgewright.data import DataSpec
from edgewright.errors import ConversionError, EdgewrightError, InputError, UnsupportedError
from edgewright.intake.formats import detect_format
from edgewright.intake.onnx_nodes import float32_reason
from edgewright.intake.source import Source, opened
from edgewright.store import Store

__all__ = ["check", "take_in"]

_PARITY_ROWS = 256
_PARITY = 1e-4  # largest difference over the largest magnitude, as for float exports
_TIES = 0.01  # share of rows that may stand on the other side of a tree's float32 threshold


def check(model: str, data: str) -> None:
    """Load the model, read and encode the data, and forget both; raises what `edgewright.intake.preflight` says."""
    _opened(Path(model), DataSpec.model_validate_json(data), checking=True)


def take_in(model: str, data: str, store: str, name: str) -> str:
    """`edgewright.intake.take_in` with JSON in and out."""
    path, spec, place = Path(model), DataSpec.model_validate_json(data), Store(Path(store))
    source = _opened(path, spec, checking=False)
    reference, predicted = source.answers()
    exported = _with_free_batch(source.to_onnx(name), source, reference)
    graph, refusal = _imported(exported)
    compared = source.samples.rows.test[:_PARITY_ROWS]
    _compare(_onnx_answers(exported, source, name, compared), source, reference, f"{name}: the ONNX graph")
    if graph is not None:
        try:
            _compare(_graph_answers(graph, source, compared), source, reference, f"{name}: the imported graph")
        except ConversionError as e:
            # Paths that need no torch graph are sound: the ONNX graph agrees.
            graph, refusal = None, str(e)
    with place.workspace() as scratch:
        onnx_file, graph_file, data_file = (scratch / f for f in ("model.onnx", "graph.safetensors", "data.npz"))
        onnx.save(exported, onnx_file)
        if graph is not None:
            from edgewright.intake import torch_graph

            torch_graph.save(graph, graph_file)
        np.savez(data_file, **_arrays(source, reference, predicted))
        origin = place.put(path, detect_format(path))
        made = place.put(onnx_file, Format.ONNX, parent=origin.digest)
        inside = None if graph is None else place.put(graph_file, Format.TORCH_GRAPH, parent=made.digest)
        rows = place.put(data_file, Format.DATASET, parent=origin.digest)
    return Intake(
        model=_described(name, source, (origin, made, inside), refusal, float32_reason(exported)),
        dataset=Dataset(
            artifact=rows,
            calibration_rows=len(source.samples.rows.calibration),
            validation_rows=len(source.samples.rows.validation),
            test_rows=len(source.samples.rows.test),
            notes=source.samples.notes,
        ),
    ).model_dump_json()


def _opened(path: Path, spec: DataSpec, *, checking: bool) -> Source:
    try:
        return opened(path, detect_format(path), spec, checking=checking)
    except EdgewrightError:
        raise
    except Exception as e:  # what a damaged file makes a framework raise has no limit
        said = (str(e).strip() or "no message").splitlines()[0][:200]
        raise InputError(f"{path}: damaged, or not what it seems: {type(e).__name__}: {said}") from e


def _with_free_batch(exported: onnx.ModelProto, source: Source, reference: NDArray[np.float64]) -> onnx.ModelProto:
    """The graph for any number of rows, where it then answers as the source does; else as it is, and a note says so.

    Compared are rows one at a time and many at once: an operator that mixes rows shows itself there.

    Raises:
        UnsupportedError: it answers otherwise, and takes several rows at a time; a device gives one.
    """
    from edgewright.intake.free_batch import fixed_batch, with_free_batch

    size, freed = fixed_batch(exported), with_free_batch(exported)
    if freed is None or any(t.shape[:1] != (size,) for t in source.inputs):
        return exported
    fixed = source.inputs, source.outputs
    source.inputs, source.outputs = (
        tuple(dataclasses.replace(t, shape=(-1, *t.shape[1:])) for t in tensors) for tensors in fixed
    )
    pieces = (source.samples.rows.test[:1], source.samples.rows.test[:_PARITY_ROWS])
    deploys = False
    try:
        for piece in pieces:
            _compare(_onnx_answers(freed, source, "freed", piece), source, reference, "")
        deploys = True
        graph, refusal = _imported(freed)
        for piece in pieces if graph is not None else ():
            _compare(_graph_answers(graph, source, piece), source, reference, "")
    except (EdgewrightError, RuntimeError, ValueError) as e:
        refusal = str(e)
    several = size is not None and size > 1
    if refusal is None or (deploys and several):
        source.notes += (f"the batch size, {size} in the file, was freed: rows answered at once agree with the source",)
        return freed
    if several:
        raise UnsupportedError(
            f"the model takes {size} rows at a time, and answers otherwise where they are one or many; a device gives "
            "one row at a time: export the model with a batch of 1, or with a free one"
        )
    source.inputs, source.outputs = fixed
    source.notes += (f"the batch size is fixed at {size}, and stays so; what trains or prunes needs a free one",)
    return exported


def _imported(model: onnx.ModelProto) -> tuple[Any, str | None]:
    """The torch graph, or why there is none: paths that need no restructuring work without it."""
    from edgewright.intake.onnx_graph import import_onnx

    try:
        return import_onnx(model), None
    except UnsupportedError as e:
        return None, str(e)


def _graph_answers(graph: Any, source: Source, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    import torch

    with torch.no_grad():
        return _in_pieces(graph, [torch.from_numpy(x[rows]) for x in source.samples.inputs.values()], source)


def _onnx_answers(model: onnx.ModelProto, source: Source, what: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    import onnxruntime

    from edgewright.intake.onnx_source import run_onnx

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    inputs = {name: x[rows] for name, x in source.samples.inputs.items()}
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return run_onnx(session, inputs)
    except Exception as e:  # ONNX Runtime's errors share no base that it exports
        said = (str(e).strip() or type(e).__name__).splitlines()[0][:240]
        raise ConversionError(f"{what}: ONNX Runtime cannot run what was exported: {said}") from e


def _compare(got: NDArray[np.float64], source: Source, reference: NDArray[np.float64], what: str) -> None:
    """What was made of the source must answer as the source does in its own framework.

    Raises:
        ConversionError: it does not; the message says by how much.
    """
    expected = reference[: len(got)]
    if got.shape != expected.shape:
        raise ConversionError(f"{what} returns {got.shape}, the source model {expected.shape}")
    far = np.abs(got - expected).reshape(len(got), -1).max(axis=1) / max(float(np.abs(expected).max()), 1e-12)
    allowed = _TIES if source.float32_only else 0.0
    share = float((~(far <= _PARITY)).mean())
    if share > allowed:
        raise ConversionError(
            f"{what} disagrees with the source model on {share:.1%} of {len(got)} rows "
            f"(largest relative difference {float(far.max()):.2g}, allowed {_PARITY:.0e})"
        )


def _in_pieces(graph: Any, inputs: list[Any], source: Source) -> NDArray[np.float64]:
    import torch

    step = source.inputs[0].shape[0] if source.inputs[0].shape[0] > 0 else len(inputs[0])
    found = []
    for start in range(0, len(inputs[0]), step):
        piece = [x[start : start + step] for x in inputs]
        short = step - len(piece[0])
        if short:
            piece = [torch.cat([p, p[-1:].expand(short, *p.shape[1:])]) for p in piece]
        result = graph(*piece)
        result = result[0] if isinstance(result, (tuple, list)) else result
        found.append(result[: step - short].double().numpy())
    return np.concatenate(found)


def _arrays(source: Source, reference: NDArray[np.float64], predicted: NDArray[Any] | None) -> Mapping[str, Any]:
    """The arrays of `edgewright.artifact.Dataset`."""
    samples = source.samples
    arrays: dict[str, Any] = {}
    for split in ("train", "calibration", "validation", "test"):
        rows = getattr(samples.rows, split)
        for name, values in samples.inputs.items():
            arrays[f"{split}.x.{name}"] = values[rows]
        arrays[f"{split}.y"] = samples.y[rows]
    arrays[f"test.reference.{source.outputs[0].name}"] = reference
    if predicted is not None:
        arrays["test.predicted"] = predicted
    if source.raw is not None:
        arrays["test.raw"] = source.raw
    return arrays


def _described(
    name: str,
    source: Source,
    artifacts: tuple[Artifact, Artifact, Artifact | None],
    refusal: str | None,
    reason: str,
) -> ImportedModel:
    origin, made, inside = artifacts
    return ImportedModel(
        name=name,
        source=origin,
        onnx=made,
        graph=inside,
        graph_refusal=refusal,
        inputs=source.inputs,
        outputs=source.outputs,
        task=ModelTask.REGRESSION if source.labels is None else ModelTask.CLASSIFICATION,
        labels=source.labels or (),
        preprocessing=source.preprocessing,
        float32_only=source.float32_only,
        float32_reason=reason,
        notes=tuple(source.notes),
    )
