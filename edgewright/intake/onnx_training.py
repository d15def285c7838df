"""Whether an ONNX model was exported in training mode. Runs in a child process: imports onnx."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from edgewright.errors import InputError
from edgewright.intake.onnx_nodes import constant_value
from edgewright.intake.onnx_tensors import array_of

__all__ = ["refuse_training_mode"]

_MODE_IS_AN_ATTRIBUTE = 14  # opset: before it BatchNormalization trains where it returns its statistics
_MEAN, _VARIANCE = 3, 4  # inputs of BatchNormalization
_RATIO, _MODE = 1, 2  # inputs of Dropout

Constants = Mapping[str, NDArray[np.generic]]


def refuse_training_mode(model: onnx.ModelProto, what: str) -> None:
    """Refuse a model whose Dropout drops, or whose BatchNormalization takes the batch's own statistics.

    A normalization without kept statistics (computed ones, or means 0 and variances 1, as exporters write it for an
    instance or a standardized weight) is left to what the model answers: see `edgewright.intake.row_mixing`.

    Raises:
        InputError: it was exported in training mode.
    """
    # Only small ones are unpacked: weights of gigabytes are no mode and no ratio.
    constants = {i.name: array_of(i) for i in _small(model.graph)}
    # A function's body is called with operands of its own: no constant from outside is known there.
    bodies = [(model.graph.node, constants, _opset(model)), *((f.node, {}, _opset(f)) for f in model.functions)]
    for nodes, known, opset in bodies:
        node = _training(nodes, known, opset)
        if node is not None:
            raise InputError(
                f"{what}: the model was exported in training mode ({node.op_type} '{node.name or node.output[0]}'): "
                "its answers would depend on chance or on the other rows; call model.eval() before the export, and "
                "leave TrainingMode.TRAINING out of torch.onnx.export"
            )


def _opset(model: onnx.ModelProto | onnx.FunctionProto) -> int:
    return next((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), 1)


def _small(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """The initializers that may be a mode, a ratio or statistics."""
    return (i for i in graph.initializer if len(i.dims) < 2)


def _training(nodes: Iterable[onnx.NodeProto], outer: Constants, opset: int) -> onnx.NodeProto | None:
    """The first node that trains, also in a branch or a loop's body."""
    known = dict(outer)
    for node in nodes:
        if node.domain not in {"", "ai.onnx"}:
            continue
        value = constant_value(node, known)
        if value is not None:
            known[node.output[0]] = value
        elif (node.op_type == "Dropout" and _drops(node, known)) or (
            node.op_type == "BatchNormalization" and _normalizes_by_batch(node, known, opset)
        ):
            return node
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                constants = {i.name: array_of(i) for i in _small(inner)}
                training_node = _training(inner.node, known | constants, opset)
                if training_node is not None:
                    return training_node
    return None


def _drops(node: onnx.NodeProto, known: Constants) -> bool:
    # Left out, training_mode is false; before opset 12 Dropout has no such input.
    mode = known.get(node.input[_MODE]) if len(node.input) > _MODE else None
    ratio = known.get(node.input[_RATIO]) if len(node.input) > _RATIO else None
    return mode is not None and bool(mode.any()) and (ratio is None or bool(ratio.any()))


def _normalizes_by_batch(node: onnx.NodeProto, known: Constants, opset: int) -> bool:
    if opset >= _MODE_IS_AN_ATTRIBUTE:
        trains = any(a.name == "training_mode" and a.i for a in node.attribute)
    else:
        # The specification before 14: with its four further outputs it normalizes by the batch.
        trains = sum(bool(name) for name in node.output) > 1
    mean, variance = known.get(node.input[_MEAN]), known.get(node.input[_VARIANCE])
    if not trains or mean is None or variance is None:
        return False
    # The means 0 and variances 1 of exporters say that there are no kept statistics.
    return bool(mean.any()) or not bool((variance == 1).all())
