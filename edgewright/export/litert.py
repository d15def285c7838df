"""The child's side of Android exports; what is imported here, only a child process pays for."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.artifact import Precision
from edgewright.errors import ConversionError, UnsupportedError
from edgewright.export import tflite, tflite_metadata, tflite_outputs
from edgewright.export.calibration import CalibrationRows
from edgewright.export.description import Description
from edgewright.export.int8 import Int8
from edgewright.export.magnitudes import steps_to_magnitudes
from edgewright.export.refusal import other_ways, unsupported_precision
from edgewright.export.scaling import Step, feature_scaling
from edgewright.export.softmax_masks import masking_operators
from edgewright.export.weight_match import learnt_ranges, weights_of_layers
from edgewright.export.whole_numbers import steps_to_whole_numbers
from edgewright.optimize.ranges import streamed_ranges
from edgewright.recipe import Calibration
from edgewright_runtime.bundle.manifest import TensorSpec

__all__ = ["convert", "describe", "quantize"]

_SAME_SCALE = {"RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "MAX_POOL_2D", "AVERAGE_POOL_2D"}
_WEIGHTED = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"}
_OPERATION = {"TRANSPOSE_CONV": "CONV_2D_TRANSPOSE"}  # the quantizer's name for it
_NO_LAYER = "it holds no convolution or dense layer to quantize"
_MISSING = re.compile(r"Lowering not found: (?:torch\.ops\.)?([\w.]+)")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_MOST_REFUSED = 8
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
    converted.export(str(path))


def _converted(module: Any, examples: tuple[Any, ...]) -> Any:
    """By litert-torch; an operation for which it has no lowering is written in others, one after the other."""
    import litert_torch
    import torch

    from edgewright.export.litert_graph import graph_for_litert, in_float64, operation_stem, refuse_complex

    refused: list[str] = []
    while True:
        form = graph_for_litert(module, examples, refused)
        refuse_complex(form, examples)
        try:
            with torch.no_grad():
                return litert_torch.convert(form, examples)
        except Exception as e:  # it has no error of its own
            said = " ".join(_ANSI.sub("", str(e)).split())
            missing = _MISSING.search(said)
            stem = operation_stem(missing[1]) if missing else next((s for k, s in _KERNELS.items() if k in said), "")
            if not stem or stem in refused or len(refused) >= _MOST_REFUSED:
                what = in_float64(form, examples) or (f"no lowering for {stem}" if stem else said[:240])
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
    kept: Sequence[str] = (),
    layers_only: bool = False,
) -> list[str]:
    """A float32 `.tflite` in fewer bits; inputs and outputs stay float unless `integer_tensors`.

    int8 is static_wi8_ai8 of ai-edge-quantizer: weights per channel and symmetric, activations per tensor, whose
    ranges ``how`` finds. Its layers of the torch graph stay float, operators that give a value that is
    ``kept``, and what masks a softmax; if ``layers_only``, whatever is not a convolution or dense layer. Returns what
    is to be said of it.

    Raises:
        UnsupportedError: the quantizer found no operator to quantize, or fails on one.
    """
    from ai_edge_quantizer import quantizer

    if precision == Precision.INT8 and not _has_layers(source):
        raise unsupported_precision(name, Precision.INT8, _NO_LAYER)
    work = quantizer.Quantizer(str(source))
    _recipe(work, precision, integer_tensors=integer_tensors)
    if precision == Precision.INT8:
        _keep_scaling_float(work, source)
        _keep_divisions_float(work, source)
        _keep_whole_numbers_float(work, source)
        _keep_magnitudes_float(work, source)
        _keep_bodies_float(work, source)
    _give_left_constants_one_scale(work, source, precision)
    if layers_only:
        _keep_between_layers_float(work, source)
    if how.graph is not None and (how.float_layers or how.noisy_layers):
        _keep_float(work, source, how.graph, how)
    said = _keep_values(work, source, frozenset(kept), masks=precision == Precision.INT8)
    ranges = None
    if work.need_calibration:
        if dataset is None:
            raise ConversionError(f"{name}: {precision} needs a dataset to calibrate with")
        ranges = _ranges(work, source, dataset)
        if how.calibration != "min_max":
            _clip(ranges, source, dataset, how.calibration, how.percentile)
        _use_learnt(ranges, source, how.graph)
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
    if not any(tflite.DTYPES[t.type] == _STORED[precision] for t in model.subgraphs[0].tensors):
        raise unsupported_precision(name, precision, _NO_LAYER)
    tflite_metadata.attach_labels(path, labels if tflite_metadata.has_labels(model) else [])
    return said


def _has_layers(path: Path) -> bool:
    """Whether there is more than arithmetic, which 8 bits would only make coarse."""
    model = tflite.load(path)
    return any(tflite.operator_name(model, o) in _WEIGHTED for graph in model.subgraphs for o in graph.operators)


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
            for side in () if integer_tensors else (TFLOperationName.INPUT, TFLOperationName.OUTPUT):
                work.update_quantization_recipe(".*", side, algorithm_key=AlgorithmName.NO_QUANTIZE)
        case _:
            raise UnsupportedError(f"LiteRT files are not quantized to {precision}")


def _keep_scaling_float(work: Any, source: Path) -> None:
    """See `edgewright.export.scaling`."""
    model = tflite.load(source)
    graph = model.subgraphs[0]
    inputs = [graph.tensors[i].name.decode() for i in graph.inputs]
    real = [graph.tensors[i] for i in graph.inputs if tflite.DTYPES[graph.tensors[i].type] == "float32"]
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
        for kind, sides in (("INPUT", graph.inputs), ("OUTPUT", graph.outputs)):
            for i in sides:
                _leave_float(work, graph.tensors[i].name.decode(), kind)
        for operator in graph.operators:
            _leave_float(work, graph.tensors[operator.outputs[0]].name.decode(), tflite.operator_name(model, operator))


def _calibrated(model: Any) -> set[int]:
    """The subgraphs that the quantizer's calibration goes through: of the signatures, and what composites stand for."""
    seen, left = set[int](), [0, *(signature.subgraphIndex for signature in model.signatureDefs or [])]
    while left:
        index = left.pop()
        if index in seen:
            continue
        seen.add(index)
        operators = model.subgraphs[index].operators
        composites = [o for o in operators if tflite.operator_name(model, o) == "STABLEHLO_COMPOSITE"]
        left.extend(o.builtinOptions2.decompositionSubgraphIndex for o in composites)
    return seen


def _give_left_constants_one_scale(work: Any, source: Path, precision: Precision) -> None:
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
        config = OpQuantizationConfig(
            activation_tensor_config=TensorQuantizationConfig(num_bits=8, symmetric=False),
            weight_tensor_config=TensorQuantizationConfig(num_bits=8, granularity=QuantGranularity.TENSORWISE),
            compute_precision=ComputePrecision.INTEGER,
        )
        work.update_quantization_recipe(_scope(output), TFLOperationName.BATCH_MATMUL, config)


def _step(model: Any, operator: Any) -> Step:
    tensors = model.subgraphs[0].tensors
    given = [tensors[i] for i in operator.inputs if i >= 0]
    held = [model.buffers[tensor.buffer].data for tensor in given]
    return Step(
        kind=tflite.operator_name(model, operator),
        values=tuple(tensor.name.decode() for tensor, data in zip(given, held, strict=True) if data is None),
        constants=tuple(
            data.view("<f4")
            for tensor, data in zip(given, held, strict=True)
            if data is not None and tflite.DTYPES[tensor.type] == "float32"
        ),
        results=tuple(tensors[i].name.decode() for i in operator.outputs),
    )


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


def _keep_between_layers_float(work: Any, source: Path) -> None:
    """Whatever is no convolution or dense layer stays as it is."""
    model = tflite.load(source)
    for graph in model.subgraphs:
        for operator in graph.operators:
            kind = tflite.operator_name(model, operator)
            if kind not in _WEIGHTED:
                _leave_float(work, graph.tensors[operator.outputs[0]].name.decode(), kind)


def _keep_float(work: Any, source: Path, graph: Path, how: Int8) -> None:
    """The operators that compute the layers stay as they are."""
    model = tflite.load(source)
    for operators in _by_layer(model, graph, how.float_layers, how.noisy_layers).values():
        for operator in operators:
            output = model.subgraphs[0].tensors[operator.outputs[0]].name.decode()
            _leave_float(work, output, tflite.operator_name(model, operator))


def _keep_values(work: Any, source: Path, kept: frozenset[str], *, masks: bool) -> list[str]:
    """The operators that give one of these values, and those that mask a softmax, stay as they are."""
    from ai_edge_quantizer.qtyping import TFLOperationName

    model = tflite.load(source)
    masking, said = masking_operators(model) if masks else ([], "")
    for operator in model.subgraphs[0].operators:
        output = model.subgraphs[0].tensors[operator.outputs[0]].name.decode()
        kind = tflite.operator_name(model, operator)
        stays = output in kept or any(operator is one for one in masking)
        if stays and _OPERATION.get(kind, kind) in TFLOperationName.__members__:  # others are never quantized
            _leave_float(work, output, kind)
    return [said] if said else []


def _by_layer(model: Any, graph: Path, layers: Iterable[str], noisy: Iterable[str] = ()) -> dict[str, list[Any]]:
    """The operators that compute each of the torch graph's layers."""
    tensors = model.subgraphs[0].tensors
    weights: dict[str, Any] = {}
    places: dict[str, list[Any]] = {}
    for operator in model.subgraphs[0].operators:
        real = [tensors[i] for i in operator.inputs if i >= 0 and tflite.DTYPES[tensors[i].type] == "float32"]
        constant = next((t for t in real if model.buffers[t.buffer].data is not None), None)
        if tflite.operator_name(model, operator) in _WEIGHTED and constant is not None:
            name = constant.name.decode()
            weights[name] = np.asarray(model.buffers[constant.buffer].data).view("<f4")
            places.setdefault(name, []).append(operator)
    found = weights_of_layers(graph, layers, weights, noisy)
    return {layer: [op for name in sorted(names) for op in places[name]] for layer, names in found.items()}


def _use_learnt(ranges: dict[str, Any], source: Path, graph: Path | None) -> None:
    """Give the layers' inputs the ranges that training learnt, where the graph was trained for int8."""
    learnt = learnt_ranges(graph)
    if graph is None or not learnt:
        return
    model = tflite.load(source)
    tensors = model.subgraphs[0].tensors
    made_by = {int(i): operator for operator in model.subgraphs[0].operators for i in operator.outputs}
    for layer, operators in _by_layer(model, graph, learnt).items():
        step, zero = learnt[layer]
        for operator in operators:
            given = int(operator.inputs[2 if tflite.operator_name(model, operator) == "TRANSPOSE_CONV" else 0])
            while True:
                found = ranges[tensors[given].name.decode()]
                found["min"] = np.full_like(found["min"], -zero * step)
                found["max"] = np.full_like(found["max"], (255 - zero) * step)
                # What only moves values, or averages them, has one scale on both sides.
                if given not in made_by or tflite.operator_name(model, made_by[given]) not in _SAME_SCALE:
                    break
                given = int(made_by[given].inputs[0])


def _clip(ranges: dict[str, Any], source: Path, dataset: Path, method: Calibration, percentile: float) -> None:
    """Narrow the ranges of the real activations to what the method leaves of them."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        str(source),
        experimental_preserve_all_tensors=True,
        # A delegate computes groups of operators at once and leaves the tensors between them unset.
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    run, rows = interpreter.get_signature_runner(), CalibrationRows(dataset, tflite.tensors(source).inputs)
    model = tflite.load(source)
    written = {int(i) for operator in model.subgraphs[0].operators for i in operator.outputs}
    written |= {int(i) for i in model.subgraphs[0].inputs}
    places = {
        d["name"]: d["index"]
        for d in interpreter.get_tensor_details()
        if d["index"] in written and d["name"] in ranges and d["dtype"] == np.float32
    }

    def values() -> Iterator[dict[str, np.ndarray]]:
        for row in rows:
            run(**row)
            yield {name: interpreter.get_tensor(index) for name, index in places.items()}

    for name, bounds in streamed_ranges(values, method, percentile).items():
        for side, bound in zip(("min", "max"), bounds, strict=True):
            ranges[name][side] = np.full_like(ranges[name][side], bound)


def _ranges(work: Any, source: Path, dataset: Path) -> Any:
    """Smallest and largest value of each tensor over the calibration rows."""
    from ai_edge_quantizer import recipe_manager
    from ai_edge_quantizer.calibrator import CalibrationMode, Calibrator

    model = tflite.load(source)
    inputs = tflite.tensors(source).inputs
    rows = {model.signatureDefs[0].signatureKey.decode(): CalibrationRows(dataset, inputs)}
    # The runtime's own profiler: the quantizer's default keeps every tensor, in twice the memory and time. And the
    # widest range: its default, a moving average, was measured to clip the largest logits by a third.
    calibrator = Calibrator(
        str(source), num_threads=1, mode=CalibrationMode.CALIBRATION_PROFILER_BASED, qsv_update_func=_widest
    )
    recipes = recipe_manager.RecipeManager()
    recipes.load_quantization_recipe(work.get_quantization_recipe())
    calibrator.calibrate(rows, recipes)
    ranges = calibrator.get_model_qsvs()
    # A branch that is not taken may be NaN, and is the range of what is left.
    partly = {name: found for name, found in ranges.items() if np.isnan(found["min"]).any()}
    if partly:
        _clip(partly, source, dataset, "min_max", 100.0)
    return _ranked(_without_infinities(ranges, model.subgraphs[0]), model.subgraphs[0])


def _widest(known: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    return {"min": np.minimum(known["min"], found["min"]), "max": np.maximum(known["max"], found["max"])}


def _ranked(ranges: dict[str, Any], graph: Any) -> dict[str, Any]:
    """Each bound with as many axes as its tensor; where a constant takes it over, the quantizer refuses another."""
    for tensor in graph.tensors:
        found = ranges.get(tensor.name.decode(), {})
        for side, bound in found.items():
            found[side] = bound.reshape((1,) * len(tensor.shape))
    return ranges


def _without_infinities(ranges: dict[str, Any], graph: Any) -> dict[str, Any]:
    """A tensor padded with minus infinity before a maximum has the range of what was padded."""
    for operator in graph.operators:
        for result in operator.outputs:
            found = ranges.get(graph.tensors[result].name.decode())
            if found is not None and not all(np.isfinite(found[side]).all() for side in ("min", "max")):
                found.update(_finite_range(found, ranges.get(graph.tensors[operator.inputs[0]].name.decode())))
    return ranges


def _finite_range(found: dict[str, Any], source: dict[str, Any] | None) -> dict[str, Any]:
    """The range of what was padded or masked; where that is not known, what of the own one is finite."""
    if source is not None and all(np.isfinite(source[side]).all() for side in ("min", "max")):
        return {side: source[side] for side in ("min", "max")}
    return {side: np.nan_to_num(found[side], nan=0.0, posinf=0.0, neginf=0.0) for side in ("min", "max")}
