"""The child's side of edge-device exports: ONNX Runtime's optimizer and quantizer."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnxruntime

from edgewright.artifact import Precision
from edgewright.errors import ConversionError, UnsupportedError
from edgewright.export import onnx_file
from edgewright.export.masks import masking_nodes
from edgewright.export.refusal import other_ways, unsupported_precision
from edgewright.intake.onnx_tensors import graphs_of
from edgewright.profile import InstructionSet
from edgewright_runtime.bundle.manifest import TensorSpec

__all__ = ["convert", "optimize", "quantize_dynamically", "to_float16", "to_int4", "to_ort"]

_DENSE = {"Gemm", "MatMul"}
_SEVERITY_ERROR = 3
_NO_OPERATOR = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)'")
_BLOCK = 32  # the block that ONNX Runtime's kernels for every processor are written for
_OPSET = 18  # the oldest that torch's exporter writes by itself, so the oldest runtimes can load it


def convert(graph: Path, inputs: Sequence[TensorSpec], outputs: Sequence[str], path: Path) -> None:
    """Torch graph to ONNX with a free batch axis, tensors named as the source's."""
    import onnxscript  # noqa: F401 - what torch's exporter is written in
    import torch

    from edgewright.export.graph_input import example_inputs
    from edgewright.export.onnx_graph import graph_for_onnx
    from edgewright.intake import torch_graph

    batch = torch.export.Dim("batch", min=1)
    # A batch of 1 would be taken for a constant: torch.export specializes on 0 and 1.
    examples = example_inputs(inputs, batch=2)
    module = graph_for_onnx(torch_graph.load(graph).eval(), examples)
    free = tuple({0: batch} if spec.shape and spec.shape[0] == -1 else None for spec in inputs)
    with torch.no_grad(), _constants_taken_exactly(), _operators_named():
        program = torch.onnx.export(
            module,
            examples,
            input_names=[spec.name for spec in inputs],
            # Names that no inner value bears; the model's own are set below, see `onnx_file.name_outputs`.
            output_names=[f"edgewright_output_{n}" for n in range(len(outputs))],
            opset_version=_OPSET,
            dynamic_shapes=free,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ConversionError("torch.onnx.export gave no program")
    _hold_constants(program.model.graph)
    model = program.model_proto
    onnx_file.name_outputs(model, list(outputs))
    onnx_file.strip(model)
    onnx.save(model, path)


@contextmanager
def _operators_named() -> Iterator[None]:
    """Have a refusal of torch's exporter name the operation; its own words are of how to extend it."""
    import torch

    try:
        yield
    except torch.onnx.OnnxExporterError as e:
        cause: BaseException | None = e
        match = None
        while cause is not None and match is None:
            # The exporter wraps its errors in each other; the operator stands in an inner one.
            match, cause = _NO_OPERATOR.search(str(cause)), cause.__cause__
        if match is None:
            raise
        raise UnsupportedError(
            f"ONNX has no operator for {match[1]}, nor does torch's exporter write it in others; "
            f"{other_ways('android', 'ios')}"
        ) from e


@contextmanager
def _constants_taken_exactly() -> Iterator[None]:
    """Have the rules of torch's exporter take a constant for another only where it is that.

    They compare by closeness (onnxscript 0.7: 1e-8, or a part in 100,000), so that adding 1e-8, which keeps a division
    from 0/0, counted as adding nothing.
    """
    from onnxscript.rewriter import _matcher

    # The module's own `math` alone is replaced, and only while the exporter runs: others keep theirs.
    real: Any = vars(_matcher)["math"]
    setattr(_matcher, "math", SimpleNamespace(isclose=lambda one, other, **_: one == other))  # noqa: B010
    try:
        yield
    finally:
        setattr(_matcher, "math", real)  # noqa: B010


def _hold_constants(graph: Any) -> None:
    """Give each constant that a node reads a place in the graph.

    Rules of torch's exporter name what they fold after the value that they read (onnxscript 0.7); of two of one name,
    as two clamps of one value bring them, only the first is in the graph.
    """
    for node in graph.all_nodes():
        for value in node.inputs:
            is_constant = value is not None and value.producer() is None and value.const_value is not None
            if is_constant and graph.initializers.get(value.name) is not value and value not in graph.inputs:
                name, count = value.name, 0
                while value.name in graph.initializers:
                    count += 1
                    value.name = f"{name}_{count}"
                graph.register_initializer(value)


def optimize(source: Path, path: Path) -> None:
    """Fold and fuse by the passes that give standard operators, so the file suits every processor."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    model = onnx_file.load(path)
    onnx_file.strip(model)
    onnx.save(model, path)


def quantize_dynamically(source: Path, name: str, path: Path, float_values: Sequence[str] = ()) -> None:
    """Weights of dense layers in 8 bits, activations quantized at run time; nodes of ``float_values`` stay as they are.

    Weights lie within -64..64, so that no processor saturates: see `edgewright.export.pair_sums`. Convolutions stay
    float: ONNX Runtime's ConvInteger was measured six times slower than a float convolution.

    Raises:
        UnsupportedError: there is no dense layer.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Raised in two places: a dense layer may be there and none be quantized, as where its weight is computed.
    refusal = unsupported_precision(name, Precision.DYNAMIC_INT8, "it holds no dense layer to quantize")
    onnx_file.require(source, _DENSE, refusal)
    float32 = onnx_file.load(source)
    left_out = _left_out(float32, float_values)
    quantize_dynamic(
        float32,
        str(path),
        op_types_to_quantize=sorted(_DENSE),
        per_channel=True,
        weight_type=QuantType.QInt8,
        reduce_range=True,
        nodes_to_exclude=left_out,
    )
    model = onnx_file.load(path)
    if not any("Integer" in node.op_type or "Quantize" in node.op_type for node in model.graph.node):
        raise refusal
    onnx_file.strip(model)
    onnx.save(model, path)


def to_int4(source: Path, name: str, path: Path, float_values: Sequence[str] = ()) -> None:
    """Weights of dense layers in 4 bits, one symmetric scale for each 32 inputs (operator ``MatMulNBits``); the nodes
    of ``float_values`` stay as they are.

    Raises:
        UnsupportedError: there is no dense layer; ONNX Runtime's convolutions take no 4-bit weights.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.onnx_model import ONNXModel

    refusal = unsupported_precision(name, Precision.INT4, "it holds no dense layer to quantize")
    onnx_file.require(source, _DENSE, refusal)
    prepared = ONNXModel(onnx_file.load(source))
    left_out = _left_out(prepared.model, float_values)
    # The quantizer takes MatMul alone.
    prepared.replace_gemm_with_matmul()
    onnx_file.name_nodes(prepared.model)
    quantizer = MatMulNBitsQuantizer(prepared.model, block_size=_BLOCK, is_symmetric=True, nodes_to_exclude=left_out)
    quantizer.process()
    model = quantizer.model.model
    if not any(node.op_type == "MatMulNBits" for node in model.graph.node):
        raise refusal
    onnx_file.strip(model)
    onnx.save(model, path)


def _left_out(model: onnx.ModelProto, float_values: Sequence[str]) -> list[str]:
    """Name the nodes; return the names of those that stay float, and of the product that is first made of a Gemm.

    Asked of the model as it is given: of the product and the sum that a Gemm becomes, the sum alone gives its value.
    """
    onnx_file.name_nodes(model)
    names = onnx_file.nodes_of(model, float_values)
    return [*names, *(f"{name}_MatMul" for name in names)]


def to_float16(source: Path, name: str, path: Path, float_values: Sequence[str] = ()) -> None:
    """Weights and operators in half precision; inputs and outputs, and the nodes of ``float_values``, stay float32.

    Raises:
        UnsupportedError: nothing is stored in float32, or an operator's outputs are of a type that ONNX does not tell.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx_file.load(source)
    untold = onnx_file.untyped(model)
    if untold:  # the conversion would leave such values float32 beside others in half
        raise unsupported_precision(name, Precision.FLOAT16, f"{untold} computes in float32 only")
    onnx_file.name_nodes(model)
    # What half precision would change beyond rounding: masks, ids, and the guards of logarithms.
    masking, masks = masking_nodes(model, is_int8=False)
    whole = onnx_file.nodes_to_whole_numbers(model)
    guards = onnx_file.nodes_from_lost_guards(model)
    plain = [*_moved_inputs(model), *masking, *whole, *guards, *onnx_file.nodes_of(model, float_values)]
    model = convert_float_to_float16(model, keep_io_types=True, node_block_list=plain)
    _join_float32(model)
    # Without a float32 weight only values are cast, and the file is no smaller.
    if not any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer):
        raise unsupported_precision(name, Precision.FLOAT16, "it holds no float32 weight")
    onnx_file.strip(model)
    if masks:
        onnx.helper.set_model_props(model, {onnx_file.MASKS_NOTE: masks})
    onnx.save(model, path)


def _join_float32(model: onnx.ModelProto) -> None:
    """Give what stays float32 to what stays float32 as it is: the conversion casts to half and back between the two."""
    # By the names that the conversion gives its casts: those of the model itself are meant as they are.
    narrowed = {
        node.output[0]: node.input[0]
        for node in model.graph.node
        if node.op_type == "Cast" and (node.name.endswith("_cast_to_fp16_node") or node.name.startswith("graph_input_"))
    }
    widened = {
        node.output[0]: narrowed[node.input[0]]
        for node in model.graph.node
        if node.op_type == "Cast" and node.name.endswith("_cast_to_fp32_node") and node.input[0] in narrowed
    }
    graphs = list(graphs_of(model.graph))
    for node in (node for graph in graphs for node in graph.node):
        node.input[:] = [widened.get(name, name) for name in node.input]
    # What no node reads any more, in a branch neither, is dropped, so that it is not computed.
    read = {name for graph in graphs for node in graph.node for name in node.input}
    read |= {value.name for graph in graphs for value in graph.output}
    nodes = [node for node in model.graph.node if node.op_type != "Cast" or node.output[0] in read]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _moved_inputs(model: onnx.ModelProto) -> list[str]:
    """The transpositions of inputs, which are cast after them instead: their numbers stay what they are.

    ONNX Runtime 1.32 on x86 crashes as it loads a cast, a transposition and a product one after the other.
    """
    given = {value.name for value in model.graph.input}
    return [node.name for node in model.graph.node if node.op_type == "Transpose" and node.input[0] in given]


def to_ort(source: Path, instruction_set: InstructionSet, path: Path) -> str:
    """Write the ``.ort`` format; return the operators it needs, as ``--include_ops_by_config`` of a build reads them.

    https://onnxruntime.ai/docs/reference/ort-format-models.html. Nothing is fused when such a file is loaded, so it is
    done here, by the passes that do not depend on the processor.
    """
    from onnxruntime.tools.ort_format_model import create_config_from_models

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    options.log_severity_level = _SEVERITY_ERROR  # it warns that a saved fusion ties the file to this provider
    options.add_session_config_entry("session.save_model_format", "ORT")
    # An x86 build would else leave signed activations as float operators between two conversions.
    signed = instruction_set in onnx_file.SIGNED_ACTIVATIONS
    options.add_session_config_entry("session.qdqisint8allowed", "1" if signed else "0")
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    config = path.with_suffix(".config")
    create_config_from_models([path], config, enable_type_reduction=False)
    lines = [line for line in config.read_text().splitlines() if line and not line.startswith("#")]
    config.unlink()
    return "".join(f"{line}\n" for line in lines)
