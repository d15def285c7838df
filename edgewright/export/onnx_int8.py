"""The child's side of static int8 for edge devices, by ONNX Runtime's quantizer, in three steps.

Each step runs in a child process of its own, so that what one took is given back before the next.
"""

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import MinMaxCalibrater, TensorsData, save_tensors_data
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgewright.artifact import Precision
from edgewright.errors import UnsupportedError
from edgewright.export import onnx_file
from edgewright.export.calibration import CalibrationRows
from edgewright.export.int8 import Int8
from edgewright.export.masks import masking_nodes
from edgewright.export.onnx_quantizable import (
    CHANNELS_OPSET,
    opset_of,
    with_biases_by_channel,
    with_channels,
    with_names_for_copies,
)
from edgewright.export.pair_sums import largest_pair_sum
from edgewright.export.refusal import unsupported_precision
from edgewright.export.scaling import feature_scaling
from edgewright.export.weight_match import learnt_ranges, weights_of_layers
from edgewright.failures import one_line
from edgewright.optimize.ranges import streamed_ranges
from edgewright.profile import InstructionSet
from edgewright.recipe import RangeCalibration

__all__ = ["calibrate", "prepare", "quantize"]

_QUANTIZED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
# Their outputs are quantized as their inputs are: QDQDirect8BitOp and its like in onnxruntime.quantization.registry.
_SAME_SCALE = {
    *("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Pad", "Gather", "Resize"),
    *("MaxPool", "AveragePool"),
}
_WHOLE_SCALES = "weights have one scale for each layer, not one for each channel: opset {opset} knows no others"
_FAILURES = tuple(
    e for e in vars(onnxruntime_pybind11_state).values() if isinstance(e, type) and issubclass(e, Exception)
)
# The runtime's own code, the node with all its values' names, and where in its sources it stands.
_PREAMBLE = re.compile(
    r"^\[ONNXRuntimeError\] : \d+ : \w+ : "
    r"|.*(?:Status Message: (?:\S+\.(?:cc|h):\d+ )?(?:\w+ onnxruntime::\w+\(.*?\) )?|, Error )"
)
_NO_LAYER = "it holds no convolution or dense layer to quantize"


def prepare(source: Path, name: str, path: Path) -> None:
    """The model with every shape inferred and every node named.

    Raises:
        UnsupportedError: it holds nothing to quantize.
    """
    # Refused first: what follows optimizes the whole model.
    onnx_file.require(source, _QUANTIZED, unsupported_precision(name, Precision.INT8, _NO_LAYER))
    # Its own optimization folds what the exporter left unfolded: behind a BatchNorm, int8 would run as float.
    quant_pre_process(str(_raised(source, path)), str(path), skip_symbolic_shape=True)
    model = onnx_file.load(path)
    with_biases_by_channel(model)
    with_names_for_copies(model)
    onnx_file.name_nodes(model)
    onnx.save(model, path)


def _raised(source: Path, path: Path) -> Path:
    """The file of `with_channels`, beside ``path``; the source itself where that has nothing to do."""
    if opset_of(onnx_file.load(source, with_data=False)) >= CHANNELS_OPSET:
        return source
    raised = path.with_suffix(".raised.onnx")
    onnx.save(with_channels(onnx_file.load(source)), raised)
    return raised


def calibrate(source: Path, dataset: Path, how: Int8, path: Path) -> None:
    """The range of each real value of a prepared model, in the file that `quantize_static` takes instead of rows."""
    rows = CalibrationRows(dataset, onnx_file.tensors(source).inputs)
    is_widest = how.calibration == "min_max"
    ranges = _extremes(source, rows) if is_widest else _clipped(source, rows, how.calibration, how.percentile)
    save_tensors_data(ranges, path)


def _extremes(source: Path, rows: CalibrationRows) -> TensorsData:
    """By ONNX Runtime's own observer, in a session that keeps few values of a row at once."""
    with tempfile.TemporaryDirectory() as folder:
        augmented = str(Path(folder) / "augmented.onnx")
        observer = MinMaxCalibrater(source, augmented_model_path=augmented)
        observer.augment_graph()
        observer.model = None  # the session has weights of its own
        observer.infer_session = _session(augmented)
        observer.collect_data(_Rows(rows))
        return observer.compute_data()


def _clipped(source: Path, rows: CalibrationRows, method: RangeCalibration, percentile: float) -> TensorsData:
    model = onnx_file.load(source)
    declared = {value.name for value in model.graph.output}
    names = [name for node in model.graph.node for name in node.output if name]
    # Every value of the graph is an output, so that one run of a row tells all; the runtime infers their types.
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names if n not in declared)
    session = _session(model.SerializeToString())
    # The session holds the weights from here on; a second copy would last for all passes over the rows.
    del model

    def values() -> Iterator[dict[str, np.ndarray]]:
        for row in rows:
            given = row | dict(zip(names, session.run(names, row), strict=True))
            # Ids, masks and sequences have no range to quantize.
            yield {n: v for n, v in given.items() if isinstance(v, np.ndarray) and v.dtype == np.float32}

    ranges = streamed_ranges(values, method, percentile)
    # Clipped already, so they are handed over as extremes: of those the quantizer takes the range as it is.
    data = {name: tuple(np.array(bound, dtype=np.float32) for bound in bounds) for name, bounds in ranges.items()}
    return TensorsData(CalibrationMethod.MinMax, data)


def _session(model: str | bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # every value as it is named
    # In the file's order: by the other one, every value of a row waits for its extremes to be taken at the end.
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    # A value's memory goes back at once, and no second layout of the weights is kept: with every value an output,
    # memory is what limits calibration.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.disable_prepacking", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def quantize(
    source: Path,
    name: str,
    ranges: Path,
    rows: Path,
    instruction_set: InstructionSet,
    weight_bits: int,
    path: Path,
    how: Int8 = Int8(),  # noqa: B008 - frozen
    float_values: Sequence[str] = (),
    *,
    layers_only: bool = False,
) -> None:
    """Static int8 in QDQ form: weights signed per channel, activations as the processor multiplies them fastest.

    Of ``weight_bits`` 7, weights lie within -64..64: no processor then saturates, see `edgewright.export.pair_sums`.
    Layers of the torch graph that it names stay float, the nodes of ``float_values``, what is infinite or NaN for a row
    of calibration (a branch that is not taken), roots and logarithms (`edgewright.export.magnitudes`), and what masks
    a softmax: beside such numbers scores would be rounded to one. If ``layers_only``, so does whatever is not a
    convolution or dense layer.

    Raises:
        UnsupportedError: no operator was quantized, or ONNX Runtime does not take what the quantizer made.
    """
    masking, masks = masking_nodes(onnx_file.load(source), is_int8=True)
    unbounded, bounded = _without_range(source, ranges)
    plain = [
        *masking,
        *_scaling_nodes(source),
        *onnx_file.nodes_to_magnitudes(onnx_file.load(source)),
        *unbounded,
        *onnx_file.nodes_to_whole_numbers(onnx_file.load(source)),
        *_nodes_of(source, how),
        *onnx_file.nodes_of(onnx_file.load(source, with_data=False), float_values),
    ]
    signed, narrow = instruction_set in onnx_file.SIGNED_ACTIVATIONS, weight_bits == 7
    opset = opset_of(onnx_file.load(source, with_data=False))
    has_channels = opset >= CHANNELS_OPSET
    choices: dict[str, Any] = {
        "calibration_cache_path": str(bounded),
        "nodes_to_exclude": plain,
        "quant_format": QuantFormat.QDQ,
        "per_channel": has_channels,
        "activation_type": QuantType.QInt8 if signed else QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
        "reduce_range": narrow,
        # None: every operator that the quantizer knows.
        "op_types_to_quantize": sorted(_QUANTIZED) if layers_only else None,
    }
    extra: dict[str, Any] = {
        "TensorQuantOverrides": _learnt(source, how.graph, signed=signed) | _whole_weights(source, narrow=narrow),
        # Zero points cost the kernels nothing; without them, half the levels lie below a ReLU, and it stays a step.
        "ActivationSymmetric": False,
        "WeightSymmetric": True,
    }
    try:
        quantize_static(str(source), str(path), None, extra_options=extra, **choices)
    except ValueError:
        # ONNX Runtime 1.32 compares a vector of scales as one number when it widens scales for a dense layer's bias.
        extra["QDQDisableWeightAdjustForInt32Bias"] = True
        quantize_static(str(source), str(path), None, extra_options=extra, **choices)
    model = onnx_file.load(path)
    # Of weights: one axis is a zero point or a bias. The quantizer is content with having quantized nothing.
    if not any(t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1 for t in model.graph.initializer):
        raise unsupported_precision(name, Precision.INT8, _NO_LAYER)
    onnx_file.strip(model)
    given = CalibrationRows(rows, onnx_file.tensors(source).inputs)
    _prove(model, name, given)
    properties = {onnx_file.PAIR_SUM: str(largest_pair_sum(model, given))} | (
        {onnx_file.MASKS_NOTE: masks} if masks else {}
    )
    properties |= {} if has_channels else {onnx_file.SCALES_NOTE: _WHOLE_SCALES.format(opset=opset)}
    onnx.helper.set_model_props(model, properties)
    onnx.save(model, path)


def _prove(model: onnx.ModelProto, name: str, rows: Iterable[dict[str, np.ndarray]]) -> None:
    """Run the first row.

    Raises:
        UnsupportedError: ONNX Runtime cannot; names the operator.
    """
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        for _, row in zip(range(1), rows, strict=False):
            session.run(None, row)
    except _FAILURES as e:
        # Shortened after the preamble is gone, which alone may be longer than a line.
        cause = one_line(_PREAMBLE.sub("", one_line(e, limit=2000)))
        raise UnsupportedError(
            f"{name}: ONNX Runtime cannot run int8 of this graph: {_failing(model, str(e))}: {cause}; float32 works"
        ) from e


def _failing(model: onnx.ModelProto, message: str) -> str:
    """The operator that the message names; of a value that is quantized for it, the one that reads it."""
    named = [node for node in model.graph.node if node.name and node.name in message]
    if not named:
        return "an operator that it does not name"
    # One name may begin with another (`conv_1`, `conv_10`): the longest is the one that was meant.
    node = max(named, key=lambda node: len(node.name))
    # The message may name the pair that the quantizer put before the operator, which the source does not have.
    while "QuantizeLinear" in node.op_type or "DequantizeLinear" in node.op_type:
        readers = [reader for reader in model.graph.node if node.output[0] in reader.input]
        if not readers:
            break
        node = readers[0]
    return f"{node.op_type} (node '{node.name}')"


def _whole_weights(path: Path, *, narrow: bool) -> dict[str, list[dict[str, Any]]]:
    """One scale for a weight of which the quantizer takes a wrong axis for that of the channels, or whose bias has
    numbers other than one for each channel."""
    graph = onnx_file.load(path).graph
    axes = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    choice = {"quant_type": QuantType.QInt8, "symmetric": True, "reduce_range": narrow}
    return {node.input[1]: [choice] for node in graph.node if _is_taken_wrong(node, axes)}


def _is_taken_wrong(node: onnx.NodeProto, axes: Mapping[str, int]) -> bool:
    match node.op_type:
        case "ConvTranspose":  # its second axis are the channels of one group
            return any(a.name == "group" and a.i > 1 for a in node.attribute)
        case "Gemm":
            return len(node.input) > 2 and node.input[1] in axes and axes.get(node.input[2], 1) != 1
        case "LayerNormalization":
            return axes.get(node.input[1], 1) != 1
    return False


def _without_range(path: Path, ranges: Path) -> tuple[list[str], Path]:
    """The nodes that read or give a value over whose range no levels can be spread, and a file of the other ranges."""
    known = TensorsData.from_dict(json.loads(ranges.read_text()))
    # Infinity over 255 levels is a scale of infinity, and NaN one of NaN: every value would be NaN.
    unbounded = {name for name, data in known.data.items() if not np.isfinite(data.range_value).all()}
    nodes = onnx_file.load(path, with_data=False).graph.node
    bounded = ranges.with_suffix(".bounded.json")
    finite_ranges = {name: data for name, data in known.data.items() if name not in unbounded}
    save_tensors_data(TensorsData(known.calibration_method, finite_ranges), bounded)
    return [node.name for node in nodes if unbounded & {*node.input, *node.output}], bounded


def _scaling_nodes(path: Path) -> list[str]:
    """The nodes that stay float, see `edgewright.export.scaling`."""
    model = onnx_file.load(path)
    held = {tensor.name for tensor in model.graph.initializer}
    names = {node.output[0]: node.name for node in model.graph.node}
    inputs = {value.name: value for value in model.graph.input if value.name not in held}
    kinds = {name: value.type.tensor_type for name, value in inputs.items()}
    real = onnx.TensorProto.FLOAT  # rows of ids pick from a table of weights, and are not features
    features = [name for name, kind in kinds.items() if kind.elem_type == real and len(kind.shape.dim) == 2]
    return [names[step.results[0]] for step in feature_scaling(onnx_file.steps(model), inputs, features)]


def _nodes_of(path: Path, how: Int8) -> list[str]:
    """The names of the nodes that compute the layers which stay float."""
    if how.graph is None or not (how.float_layers or how.noisy_layers):
        return []
    nodes_by_layer = _by_layer(onnx_file.load(path), how.graph, how.float_layers, how.noisy_layers)
    return sorted({node.name for nodes in nodes_by_layer.values() for node in nodes})


def _by_layer(
    model: onnx.ModelProto, graph: Path, layers: Iterable[str], noisy: Iterable[str] = ()
) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that compute each of the torch graph's layers."""
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        # Either operand of a MatMul may be the weight; a third one is the bias.
        for name in node.input[:2] if node.op_type in _QUANTIZED else ():
            if name in initializers:
                nodes.setdefault(name, []).append(node)
    weights = {name: onnx.numpy_helper.to_array(initializers[name]) for name in nodes}
    names_by_layer = weights_of_layers(graph, layers, weights, noisy)
    return {layer: [node for name in sorted(names) for node in nodes[name]] for layer, names in names_by_layer.items()}


def _learnt(path: Path, graph: Path | None, *, signed: bool) -> dict[str, list[dict[str, Any]]]:
    """The scale and zero point of each layer's input, as training learnt them, for the quantizer to use."""
    ranges = learnt_ranges(graph)
    if graph is None or not ranges:
        return {}
    model = onnx_file.load(path)
    initializers = {tensor.name for tensor in model.graph.initializer}
    made_by = {name: node for node in model.graph.node for name in node.output}
    overrides: dict[str, list[dict[str, Any]]] = {}
    for layer, nodes in _by_layer(model, graph, ranges).items():
        step, zero = ranges[layer]
        # Training counts levels from 0 to 255: the same levels, by 128 less, are those of int8.
        point = np.array(zero - 128, dtype=np.int8) if signed else np.array(zero, dtype=np.uint8)
        chosen = [
            {
                "quant_type": QuantType.QInt8 if signed else QuantType.QUInt8,
                "scale": np.array(step, np.float32),
                "zero_point": point,
            }
        ]
        for node in nodes:
            name = next(n for n in node.input if n not in initializers)
            overrides[name] = chosen
            # The quantizer takes the scale of these operators' results from what they read, so it is set there as well.
            while name in made_by and made_by[name].op_type in _SAME_SCALE:
                name = made_by[name].input[0]
                overrides[name] = chosen
    return overrides


class _Rows(CalibrationDataReader):  # type: ignore[misc]
    """Calibration rows in the form that the quantizer asks for."""

    def __init__(self, rows: CalibrationRows) -> None:
        self._rows: Iterator[dict[str, np.ndarray]] = iter(rows)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._rows, None)
