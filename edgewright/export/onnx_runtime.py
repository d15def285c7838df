"""The child's side of edge-device exports: ONNX Runtime's optimizer and quantizer."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import TensorsData, save_tensors_data
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgewright.artifact import Precision
from edgewright.errors import ConversionError, UnsupportedError
from edgewright.export import onnx_file
from edgewright.export.calibration import CalibrationRows
from edgewright.export.refusal import unsupported_precision
from edgewright.export.scaling import Step, feature_scaling
from edgewright.export.weight_match import learnt_ranges, weights_of_layers
from edgewright.optimize.ranges import streamed_ranges
from edgewright.recipe import Calibration

__all__ = ["convert", "optimize", "quantize", "quantize_dynamically", "to_float16", "to_ort"]

_DENSE = {"Gemm", "MatMul"}
# Their outputs are quantized as their inputs are: QDQDirect8BitOp and its like in onnxruntime.quantization.registry.
_SAME_SCALE = {
    *("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Pad", "Gather", "Resize"),
    *("MaxPool", "AveragePool"),
}
_QUANTIZED = {"Conv", "ConvTranspose"} | _DENSE
_NO_LAYER = "it holds no convolution or dense layer to quantize"
_SEVERITY_ERROR = 3
_OPSET = 18  # the oldest that torch's exporter writes by itself, so the oldest runtimes can load it
# onnxruntime.quantization.quantize_static's own documentation ("Choosing parameters for CPU inference"): unsigned
# activations on x86, whose dot product multiplies u8 by s8; signed and symmetric ones on Arm, whose kernels
# (sdot, and the symmetric convolution of https://github.com/microsoft/onnxruntime/pull/9772) want s8 by s8.
_ACTIVATIONS = {"x86_64": QuantType.QUInt8, "arm64": QuantType.QInt8, "armv7": QuantType.QInt8}


def convert(graph: str, inputs: list[dict[str, Any]], outputs: list[str], path: str) -> None:
    """Torch graph to ONNX with a free batch axis, tensors named as the source's."""
    import torch

    from edgewright.export.graph_input import example_inputs
    from edgewright.intake import torch_graph

    module = torch_graph.load(Path(graph)).eval()
    batch = torch.export.Dim("batch", min=1)
    # A batch of 1 would be taken for a constant: torch.export specializes on 0 and 1.
    examples = example_inputs(inputs, batch=2)
    free = tuple({0: batch} if spec["shape"] and spec["shape"][0] == -1 else None for spec in inputs)
    with torch.no_grad():
        program = torch.onnx.export(
            module,
            examples,
            input_names=[spec["name"] for spec in inputs],
            output_names=outputs,
            opset_version=_OPSET,
            dynamic_shapes=free,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ConversionError("torch.onnx.export gave no program")
    model = program.model_proto
    onnx_file.strip(model)
    onnx.save(model, path)


def optimize(source: str, path: str) -> None:
    """Fold and fuse by the passes that give standard operators, so the file suits every processor."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = path
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    model = onnx_file.load(Path(path))
    onnx_file.strip(model)
    onnx.save(model, path)


def quantize(
    *,
    source: str,
    name: str,
    dataset: str,
    instruction_set: str,
    path: str,
    calibration: Calibration = "min_max",
    percentile: float = 99.99,
    float_layers: Sequence[str] = (),
    graph: str = "",
) -> None:
    """Static int8 in QDQ form: weights signed per channel, activations as the processor multiplies them fastest.

    ``float_layers`` of the torch graph stay float; ``calibration`` finds the ranges of activations.

    Raises:
        UnsupportedError: no operator was quantized.
    """
    _require(source, _QUANTIZED, unsupported_precision(name, Precision.INT8, _NO_LAYER))
    prepared = Path(path).with_suffix(".prepared.onnx")
    quant_pre_process(source, str(prepared), skip_symbolic_shape=True)
    activations = _ACTIVATIONS[instruction_set]
    names = [spec["name"] for spec in onnx_file.tensors(source)["inputs"]]
    rows = CalibrationRows(Path(dataset), names)
    choices: dict[str, Any] = {
        "nodes_to_exclude": [
            *_scaling_nodes(prepared),
            *(_nodes_of(prepared, Path(graph), float_layers) if float_layers else []),
        ],
        "quant_format": QuantFormat.QDQ,
        "per_channel": True,
        "activation_type": activations,
        "weight_type": QuantType.QInt8,
    }
    if calibration != "min_max":
        choices["calibration_cache_path"] = _calibrated(prepared, rows, calibration, percentile)
    learnt = _learnt(prepared, graph, activations)
    extra: dict[str, Any] = {
        "TensorQuantOverrides": learnt,
        "ActivationSymmetric": activations is QuantType.QInt8,
        "WeightSymmetric": True,
    }
    try:
        quantize_static(str(prepared), path, _Rows(rows), extra_options=extra, **choices)
    except ValueError:
        # ONNX Runtime 1.32 compares a vector of scales as one number when it widens scales for a dense layer's bias.
        extra["QDQDisableWeightAdjustForInt32Bias"] = True
        quantize_static(str(prepared), path, _Rows(rows), extra_options=extra, **choices)
    prepared.unlink()
    model = onnx_file.load(Path(path))
    if not any(t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1 for t in model.graph.initializer):
        raise unsupported_precision(name, Precision.INT8, _NO_LAYER)
    onnx_file.strip(model)
    onnx.save(model, path)


def _require(path: str, operators: set[str], refusal: UnsupportedError) -> None:
    if not any(node.op_type in operators for node in onnx_file.load(Path(path), with_data=False).graph.node):
        raise refusal


def _scaling_nodes(path: Path) -> list[str]:
    """The nodes that stay float, see `edgewright.export.scaling`; nodes without a name are given one."""
    model = onnx_file.load(path)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    onnx.save(model, path)
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    names = {node.output[0]: node.name for node in model.graph.node}
    steps = [
        Step(
            kind=node.op_type,
            values=tuple(name for name in node.input if name and name not in held),
            constants=tuple(
                onnx.numpy_helper.to_array(held[name])
                for name in node.input
                if name in held and held[name].data_type == onnx.TensorProto.FLOAT
            ),
            results=tuple(node.output),
        )
        for node in model.graph.node
        if node.op_type in {"Add", "Sub", "Mul", "Div"}
    ]
    inputs = [value.name for value in model.graph.input if value.name not in held]
    return [names[step.results[0]] for step in feature_scaling(steps, inputs)]


def _nodes_of(path: Path, graph: Path, layers: Sequence[str]) -> list[str]:
    """The names of the nodes that compute the torch graph's layers."""
    model = onnx_file.load(path)
    return sorted({node.name for nodes in _by_layer(model, graph, layers).values() for node in nodes})


def _by_layer(model: onnx.ModelProto, graph: Path, layers: Iterable[str]) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that compute each of the torch graph's layers."""
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input[:2] if node.op_type in _QUANTIZED else ():
            if name in initializers:
                nodes.setdefault(name, []).append(node)
    weights = {name: onnx.numpy_helper.to_array(initializers[name]) for name in nodes}
    found = weights_of_layers(graph, layers, weights)
    return {layer: [node for name in sorted(names) for node in nodes[name]] for layer, names in found.items()}


def _learnt(path: Path, graph: str, activations: QuantType) -> dict[str, list[dict[str, Any]]]:
    """The scale and zero point of each layer's input, as training learnt them, for the quantizer to use."""
    ranges = learnt_ranges(graph)
    if not ranges:
        return {}
    model = onnx_file.load(path)
    initializers = {tensor.name for tensor in model.graph.initializer}
    made_by = {name: node for node in model.graph.node for name in node.output}
    signed = activations is QuantType.QInt8
    overrides: dict[str, list[dict[str, Any]]] = {}
    for layer, nodes in _by_layer(model, Path(graph), ranges).items():
        step, zero = ranges[layer]
        point = np.array(zero - 128, dtype=np.int8) if signed else np.array(zero, dtype=np.uint8)
        chosen = [{"quant_type": activations, "scale": np.array(step, np.float32), "zero_point": point}]
        for node in nodes:
            name = next(n for n in node.input if n not in initializers)
            overrides[name] = chosen
            while name in made_by and made_by[name].op_type in _SAME_SCALE:
                name = made_by[name].input[0]
                overrides[name] = chosen
    return overrides


def _calibrated(path: Path, rows: CalibrationRows, method: Calibration, percentile: float) -> Path:
    """The ranges of all real values of the model, in the file that `quantize_static` takes instead of rows."""
    model = onnx_file.load(path)
    declared = {value.name for value in model.graph.output}
    names = [name for node in model.graph.node for name in node.output if name]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names if n not in declared)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def values() -> Iterator[dict[str, np.ndarray]]:
        for row in rows:
            given = row | dict(zip(names, session.run(names, row), strict=True))
            yield {n: v for n, v in given.items() if isinstance(v, np.ndarray) and v.dtype == np.float32}

    ranges = streamed_ranges(values, method, percentile)
    data = {name: tuple(np.array(bound, dtype=np.float32) for bound in bounds) for name, bounds in ranges.items()}
    made = path.with_suffix(".ranges.json")
    save_tensors_data(TensorsData(CalibrationMethod.MinMax, data), made)
    return made


def quantize_dynamically(source: str, name: str, path: str) -> None:
    """Weights of dense layers in 8 bits, activations quantized at run time.

    Convolutions stay float: ONNX Runtime's ConvInteger was measured six times slower than a float convolution.

    Raises:
        UnsupportedError: there is no dense layer.
    """
    from onnxruntime.quantization import quantize_dynamic

    refusal = unsupported_precision(name, Precision.DYNAMIC_INT8, "it holds no dense layer to quantize")
    _require(source, _DENSE, refusal)
    quantize_dynamic(source, path, op_types_to_quantize=sorted(_DENSE), per_channel=True, weight_type=QuantType.QInt8)
    model = onnx_file.load(Path(path))
    if not any("Integer" in node.op_type or "Quantize" in node.op_type for node in model.graph.node):
        raise refusal
    onnx_file.strip(model)
    onnx.save(model, path)


def to_float16(source: str, name: str, path: str) -> None:
    """Weights and operators in half precision; inputs and outputs stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx_file.load(Path(source)), keep_io_types=True)
    if not any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer):
        raise unsupported_precision(name, Precision.FLOAT16, "it holds no float32 weight")
    onnx_file.strip(model)
    onnx.save(model, path)


def to_ort(source: str, instruction_set: str, path: str) -> str:
    """Write the ``.ort`` format; return the operators it needs, as ``--include_ops_by_config`` of a build reads them.

    https://onnxruntime.ai/docs/reference/ort-format-models.html. Nothing is fused when such a file is loaded, so it is
    done here, by the passes that do not depend on the processor.
    """
    from onnxruntime.tools.ort_format_model import create_config_from_models

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = path
    options.log_severity_level = _SEVERITY_ERROR  # it warns that a saved fusion ties the file to this provider
    options.add_session_config_entry("session.save_model_format", "ORT")
    # An x86 build would else leave signed activations as float operators between two conversions.
    signed = _ACTIVATIONS[instruction_set] is QuantType.QInt8
    options.add_session_config_entry("session.qdqisint8allowed", "1" if signed else "0")
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    config = Path(path).with_suffix(".config")
    create_config_from_models([Path(path)], config, enable_type_reduction=False)
    lines = [line for line in config.read_text().splitlines() if line and not line.startswith("#")]
    config.unlink()
    return "".join(f"{line}\n" for line in lines)


class _Rows(CalibrationDataReader):  # type: ignore[misc]
    """Calibration rows in the form that the quantizer asks for."""

    def __init__(self, rows: CalibrationRows) -> None:
        self._rows: Iterator[dict[str, np.ndarray]] = iter(rows)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._rows, None)
