"""The child's side of Android exports; what is imported here, only a child process pays for."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgewright.artifact import Precision
from edgewright.errors import ConversionError, UnsupportedError
from edgewright.export import tflite, tflite_metadata, tflite_outputs
from edgewright.export.description import Description
from edgewright.export.int8 import Int8
from edgewright.export.litert_ranges import calibrated_ranges, clip_ranges, use_learnt_ranges
from edgewright.export.litert_recipes import (
    WEIGHTED,
    give_left_constants_one_scale,
    keep_between_layers_float,
    keep_layers_float,
    keep_unsafe_float,
    keep_values_float,
)
from edgewright.export.refusal import other_ways, unsupported_precision
from edgewright_runtime.bundle.manifest import TensorSpec

__all__ = ["convert", "describe", "quantize"]

_NO_LAYER = "it holds no convolution or dense layer to quantize"
_MISSING = re.compile(r"Lowering not found: (?:torch\.ops\.)?([\w.]+)")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_WITHOUT_KERNEL = re.compile(r"TF Select ops: ([^\n]+)")
_MAX_REFUSED = 8
_KERNELS = {"'tfl.batch_matmul' op found invalid output rank": "matmul"}
"""What the converter says of an operation that it has lowered itself, and whose other form it may take."""
_STORED = {Precision.FLOAT16: "float16", Precision.INT8: "int8", Precision.DYNAMIC_INT8: "int8", Precision.INT4: "int4"}


def convert(graph: Path, inputs: Sequence[TensorSpec], path: Path) -> None:
    """Torch graph to a float32 `.tflite` of batch 1; inputs and outputs are numbered."""
    from edgewright.export.graph_input import example_inputs
    from edgewright.intake import torch_graph
    from edgewright.optimize.fuse import fuse

    # Folded here, since each constant that the converter folds stays in its memory beside what became of it.
    module = fuse(torch_graph.load(graph).eval())
    converted = _converted(module, example_inputs(inputs))
    # The converter holds a copy by now; writing the file needs the memory.
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.new_empty(0)
    try:
        converted.export(str(path))
    except ValueError as e:  # it takes operators of which its runtime has none, and then writes no file
        missing = _WITHOUT_KERNEL.search(str(e))
        if missing is None:
            raise
        raise UnsupportedError(
            f"LiteRT has no operator for {missing[1].strip()}, as its converter writes the graph;"
            f" {other_ways('ios', 'edge_device')}"
        ) from e


def _converted(module: Any, examples: tuple[Any, ...]) -> Any:
    """By litert-torch; an operation for which it has no lowering is written in others, one after the other."""
    import litert_torch
    import torch

    from edgewright.export.litert_graph import graph_for_litert, in_float64, operation_stem, refuse_complex

    refused: list[str] = []
    while True:
        form = graph_for_litert(module, examples, refused)
        # Asked before the converter, whose own message is a dump of its graph.
        refuse_complex(form, examples)
        try:
            with torch.no_grad():
                return litert_torch.convert(form, examples)
        except Exception as e:  # it has no error of its own
            # Its messages are coloured and run over many lines.
            message = " ".join(_ANSI.sub("", str(e)).split())
            missing = _MISSING.search(message)
            stem = operation_stem(missing[1]) if missing else next((s for k, s in _KERNELS.items() if k in message), "")
            # Refused again, it stands in its other form too; the bound ends what goes from form to form.
            if not stem or stem in refused or len(refused) >= _MAX_REFUSED:
                what = in_float64(form, examples) or (f"no lowering for {stem}" if stem else message[:240])
                raise UnsupportedError(
                    f"LiteRT's converter does not take the graph: {what}; {other_ways('ios', 'edge_device')}"
                ) from e
            refused.append(stem)


def describe(path: Path, description: Description, labels: Sequence[str]) -> None:
    """Name the tensors of a converted file as the source's and add metadata that Android's tools read.

    Its biases become flat on the way, before any other file is made of it.
    """
    model = tflite.load(path)
    tflite.flatten_biases(model)
    tflite_outputs.part_outputs(model)
    tflite.name_tensors(model, description.inputs, description.outputs)
    tflite_metadata.attach(model, description)
    tflite.save(model, path)
    # Labels lie behind the flatbuffer, so they go last.
    tflite_metadata.attach_labels(path, labels if description.labelled else [])


def quantize(
    *,
    source: Path,
    name: str,
    precision: Precision,
    path: Path,
    labels: Sequence[str],
    dataset: Path | None = None,
    integer_tensors: bool = False,
    how: Int8 = Int8(),  # noqa: B008 - frozen
    float_values: Sequence[str] = (),
    layers_only: bool = False,
) -> list[str]:
    """A float32 `.tflite` in fewer bits; inputs and outputs stay float unless `integer_tensors`.

    int8 is static_wi8_ai8 of ai-edge-quantizer: weights per channel and symmetric, activations per tensor, whose
    ranges ``how`` finds. Its layers of the torch graph stay float, operators that give one of ``float_values``, and
    what masks a softmax; if ``layers_only``, whatever is not a convolution or dense layer. Returns what is to be said
    of it.

    Raises:
        UnsupportedError: the quantizer found no operator to quantize, or fails on one.
    """
    from ai_edge_quantizer import quantizer

    if precision == Precision.INT8 and not _has_layers(source):
        raise unsupported_precision(name, Precision.INT8, _NO_LAYER)
    work = quantizer.Quantizer(str(source))
    # The general recipe first: of those that match an operator, the last one told holds.
    _recipe(work, precision, integer_tensors=integer_tensors)
    if precision == Precision.INT8:
        keep_unsafe_float(work, source)
    give_left_constants_one_scale(work, source, precision)
    if layers_only:
        keep_between_layers_float(work, source)
    if how.graph is not None and (how.float_layers or how.noisy_layers):
        keep_layers_float(work, source, how.graph, how)
    notes = keep_values_float(work, source, frozenset(float_values), masks=precision == Precision.INT8)
    ranges = None
    if work.need_calibration:
        if dataset is None:
            raise ConversionError(f"{name}: {precision} needs a dataset to calibrate with")
        ranges = calibrated_ranges(work, source, dataset)
        if how.calibration != "min_max":
            clip_ranges(ranges, source, dataset, how.calibration, how.percentile)
        use_learnt_ranges(ranges, source, how.graph)
    try:
        quantized = work.quantize(ranges, enable_progress_report=False).quantized_model
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError, NotImplementedError) as e:
        # It has no error of its own for a graph that it cannot treat.
        cause = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise UnsupportedError(
            f"{name}: LiteRT's quantizer cannot make {precision} of this graph: {cause}; float32 still works, and the"
            f" platforms ios and edge_device have {precision} of their own"
        ) from e
    path.write_bytes(quantized)
    model = tflite.load(path)
    if precision == Precision.INT8:
        tflite_outputs.read_in_their_width(model)
        tflite_outputs.point_to_outputs(model)
        tflite.save(model, path)
    # The quantizer passes over what it has no rule for without a word: the file shows if it did any.
    if not any(tflite.DTYPES[t.type] == _STORED[precision] for t in model.subgraphs[0].tensors):
        raise unsupported_precision(name, precision, _NO_LAYER)
    # A quantizer keeps the reference to the labels and loses what lies behind the flatbuffer.
    tflite_metadata.attach_labels(path, labels if tflite_metadata.has_labels(model) else [])
    return notes


def _has_layers(path: Path) -> bool:
    """Whether there is more than arithmetic, which 8 bits would only make coarse."""
    model = tflite.load(path)
    return any(tflite.operator_name(model, o) in WEIGHTED for graph in model.subgraphs for o in graph.operators)


def _recipe(work: Any, precision: Precision, *, integer_tensors: bool) -> None:
    """Tell the quantizer what to do."""
    from ai_edge_quantizer import recipe
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import TFLOperationName

    match precision:
        case Precision.FLOAT16:
            work.add_weight_only_config(
                regex=".*",
                operation_name=TFLOperationName.ALL_SUPPORTED,
                num_bits=16,
                algorithm_key=AlgorithmName.FLOAT_CASTING,
            )
        case Precision.DYNAMIC_INT8:
            work.load_quantization_recipe(recipe.dynamic_wi8_afp32())
        case Precision.INT4:
            # One scale an output channel, clipped as OCTAV does (Sakr et al., arXiv 2206.06501):
            # in 15 levels the extremes would cost the others too much.
            work.load_quantization_recipe(recipe.dynamic_wi4_afp32(algorithm_key=AlgorithmName.OCTAV))
        case Precision.INT8:
            work.load_quantization_recipe(recipe.static_wi8_ai8())
            # Float at both ends, so that an app's code does not change with the precision.
            for side in () if integer_tensors else (TFLOperationName.INPUT, TFLOperationName.OUTPUT):
                work.update_quantization_recipe(".*", side, algorithm_key=AlgorithmName.NO_QUANTIZE)
        case _:
            raise UnsupportedError(f"LiteRT files are not quantized to {precision}")
