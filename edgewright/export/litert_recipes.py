"""Which operators of a `.tflite` LiteRT's quantizer leaves in float, told to it as recipes of their own."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.artifact import Precision
from edgewright.export import tflite
from edgewright.export.int8 import Int8
from edgewright.export.magnitudes import steps_to_magnitudes
from edgewright.export.masks import masking_operators
from edgewright.export.scaling import ScalingNode, feature_scaling
from edgewright.export.weight_match import weights_of_layers
from edgewright.export.whole_numbers import steps_to_whole_numbers

__all__ = [
    "WEIGHTED",
    "give_left_constants_one_scale",
    "keep_between_layers_float",
    "keep_layers_float",
    "keep_unsafe_float",
    "keep_values_float",
    "operators_by_layer",
]

WEIGHTED = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"}
_OPERATION = {"TRANSPOSE_CONV": "CONV_2D_TRANSPOSE"}  # the quantizer's name for it


def keep_unsafe_float(work: Any, source: Path) -> None:
    """What 8 bits would spoil: scaling, divisions, whole numbers, magnitudes, and bodies unseen by calibration."""
    _keep_scaling_float(work, source)
    _keep_divisions_float(work, source)
    _keep_whole_numbers_float(work, source)
    _keep_magnitudes_float(work, source)
    _keep_bodies_float(work, source)


def keep_between_layers_float(work: Any, source: Path) -> None:
    """Whatever is not a convolution or dense layer stays as it is."""
    model = tflite.load(source)
    for graph in model.subgraphs:
        for operator in graph.operators:
            kind = tflite.operator_name(model, operator)
            if kind not in WEIGHTED and _gives(operator):
                _leave_float(work, graph.tensors[operator.outputs[0]].name.decode(), kind)


def keep_layers_float(work: Any, source: Path, graph: Path, how: Int8) -> None:
    """The operators that compute the layers stay as they are."""
    model = tflite.load(source)
    for operators in operators_by_layer(model, graph, how.float_layers, how.noisy_layers).values():
        for operator in operators:
            output = model.subgraphs[0].tensors[operator.outputs[0]].name.decode()
            _leave_float(work, output, tflite.operator_name(model, operator))


def keep_values_float(work: Any, source: Path, float_values: frozenset[str], *, masks: bool) -> list[str]:
    """The operators that give one of these values, and those that mask a softmax, stay as they are."""
    from ai_edge_quantizer.qtyping import TFLOperationName

    model = tflite.load(source)
    masking, note = masking_operators(model) if masks else ([], "")
    for operator in filter(_gives, model.subgraphs[0].operators):
        output = model.subgraphs[0].tensors[operator.outputs[0]].name.decode()
        kind = tflite.operator_name(model, operator)
        stays = output in float_values or any(operator is one for one in masking)
        if stays and _OPERATION.get(kind, kind) in TFLOperationName.__members__:  # others are never quantized
            _leave_float(work, output, kind)
    return [note] if note else []


def give_left_constants_one_scale(work: Any, source: Path, precision: Precision) -> None:
    """A batched product with a constant on the left: the quantizer gives it a scale for each place that is summed over,
    which no kernel takes out of the sum again."""
    from ai_edge_quantizer.qtyping import (
        ComputePrecision,
        OpQuantizationConfig,
        QuantGranularity,
        TensorQuantizationConfig,
        TFLOperationName,
    )

    model = tflite.load(source)
    graph = model.subgraphs[0]
    for operator in graph.operators:
        if tflite.operator_name(model, operator) != "BATCH_MATMUL":
            continue
        output = graph.tensors[operator.outputs[0]].name.decode()
        if model.buffers[graph.tensors[operator.inputs[0]].buffer].data is None:
            continue
        if precision is not Precision.INT8:
            _leave_float(work, output, "BATCH_MATMUL")
            continue
        # A scale of the whole constant can be taken out of the sum.
        config = OpQuantizationConfig(
            activation_tensor_config=TensorQuantizationConfig(num_bits=8, symmetric=False),
            weight_tensor_config=TensorQuantizationConfig(num_bits=8, granularity=QuantGranularity.TENSORWISE),
            compute_precision=ComputePrecision.INTEGER,
        )
        work.update_quantization_recipe(_scope(output), TFLOperationName.BATCH_MATMUL, config)


def operators_by_layer(
    model: Any, graph: Path, layers: Iterable[str], noisy: Iterable[str] = ()
) -> dict[str, list[Any]]:
    """The operators that compute each of the torch graph's layers."""
    tensors = model.subgraphs[0].tensors
    weights: dict[str, Any] = {}
    places: dict[str, list[Any]] = {}
    for operator in model.subgraphs[0].operators:
        real = [tensors[i] for i in operator.inputs if i >= 0 and tflite.DTYPES[tensors[i].type] == "float32"]
        # The weight comes before the bias, which is a float32 constant as well.
        constant = next((t for t in real if model.buffers[t.buffer].data is not None), None)
        if tflite.operator_name(model, operator) in WEIGHTED and constant is not None:
            name = constant.name.decode()
            weights[name] = np.asarray(model.buffers[constant.buffer].data).view("<f4")
            # Layers that share a weight are several operators that read one constant.
            places.setdefault(name, []).append(operator)
    names_by_layer = weights_of_layers(graph, layers, weights, noisy)
    return {layer: [op for name in sorted(names) for op in places[name]] for layer, names in names_by_layer.items()}


def _keep_scaling_float(work: Any, source: Path) -> None:
    """See `edgewright.export.scaling`."""
    model = tflite.load(source)
    graph = model.subgraphs[0]
    inputs = [graph.tensors[i].name.decode() for i in graph.inputs]
    real = [graph.tensors[i] for i in graph.inputs if tflite.DTYPES[graph.tensors[i].type] == "float32"]
    # (rows, features): a table's; an image has four axes.
    features = [tensor.name.decode() for tensor in real if len(tensor.shape) == 2]
    for step in feature_scaling((_step(model, operator) for operator in graph.operators), inputs, features):
        _leave_float(work, step.results[0], step.kind)


def _keep_whole_numbers_float(work: Any, source: Path) -> None:
    """See `edgewright.export.whole_numbers`."""
    model = tflite.load(source)
    graph = model.subgraphs[0]
    casts = [o for o in graph.operators if tflite.operator_name(model, o) == "CAST"]
    whole = [o for o in casts if "int" in tflite.DTYPES[graph.tensors[o.outputs[0]].type]]
    rounded = [graph.tensors[operator.inputs[0]].name.decode() for operator in whole]
    for step in steps_to_whole_numbers([_step(model, operator) for operator in graph.operators], rounded):
        _leave_float(work, step.results[0], step.kind)


def _keep_divisions_float(work: Any, source: Path) -> None:
    """LiteRT's int8 division ends the whole inference where a computed divisor rounds to zero."""
    model = tflite.load(source)
    graph = model.subgraphs[0]
    for operator in graph.operators:
        if tflite.operator_name(model, operator) == "DIV":
            divisor = graph.tensors[operator.inputs[1]]
            if model.buffers[divisor.buffer].data is None:
                _leave_float(work, graph.tensors[operator.outputs[0]].name.decode(), "DIV")


def _keep_magnitudes_float(work: Any, source: Path) -> None:
    """See `edgewright.export.magnitudes`."""
    model = tflite.load(source)
    for step in steps_to_magnitudes([_step(model, operator) for operator in model.subgraphs[0].operators]):
        _leave_float(work, step.results[0], step.kind)


def _keep_bodies_float(work: Any, source: Path) -> None:
    """What an operator repeats, as the maximum of two values in a pooling over three axes, or the body of a loop: its
    operators are a subgraph of their own, of which calibration sees nothing, and its caller stays float, too."""
    model = tflite.load(source)
    seen = _calibrated(model)
    for index, graph in enumerate(model.subgraphs):
        if index in seen:
            continue
        # To the quantizer a body's own ends are operators as well.
        for kind, sides in (("INPUT", graph.inputs), ("OUTPUT", graph.outputs)):
            for i in sides:
                _leave_float(work, graph.tensors[i].name.decode(), kind)
        for operator in filter(_gives, graph.operators):
            _leave_float(work, graph.tensors[operator.outputs[0]].name.decode(), tflite.operator_name(model, operator))


def _calibrated(model: Any) -> set[int]:
    """The subgraphs that the quantizer's calibration goes through: of the signatures, and what composites stand for."""
    seen, pending = set[int](), [0, *(signature.subgraphIndex for signature in model.signatureDefs or [])]
    while pending:
        index = pending.pop()
        if index in seen:
            continue
        seen.add(index)
        operators = model.subgraphs[index].operators
        composites = [o for o in operators if tflite.operator_name(model, o) == "STABLEHLO_COMPOSITE"]
        pending.extend(o.builtinOptions2.decompositionSubgraphIndex for o in composites)
    return seen


def _step(model: Any, operator: Any) -> ScalingNode:
    tensors = model.subgraphs[0].tensors
    given = [tensors[i] for i in operator.inputs if i >= 0]
    held = [model.buffers[tensor.buffer].data for tensor in given]
    return ScalingNode(
        kind=tflite.operator_name(model, operator),
        values=tuple(tensor.name.decode() for tensor, data in zip(given, held, strict=True) if data is None),
        constants=tuple(
            data.view("<f4")
            for tensor, data in zip(given, held, strict=True)
            if data is not None and tflite.DTYPES[tensor.type] == "float32"
        ),
        results=tuple(tensors[i].name.decode() for i in operator.outputs),
    )


def _gives(operator: Any) -> bool:
    """Whether an operator gives anything: one that sets a state, or calls what does, has nothing to quantize."""
    return len(operator.outputs) > 0


def _leave_float(work: Any, output: str, kind: str) -> None:
    """A recipe of its own for the operator with that output: leave it as it is."""
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import TFLOperationName

    name = _OPERATION.get(kind, kind)
    if name not in TFLOperationName.__members__:  # the quantizer leaves what it does not know as it is
        return
    operation = TFLOperationName[name]
    work.update_quantization_recipe(_scope(output), operation, algorithm_key=AlgorithmName.NO_QUANTIZE)


def _scope(output: str) -> str:
    """The operator with that output. Its scope is the names of its outputs, joined by ";": another's may begin with the
    same letters."""
    return rf"(?:^|;){re.escape(output)}(?:;|$)"
