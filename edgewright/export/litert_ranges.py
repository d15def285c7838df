"""The ranges of activations that LiteRT's quantizer takes: calibrated, narrowed, and learnt."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.export import tflite
from edgewright.export.calibration import CalibrationRows
from edgewright.export.litert_recipes import operators_by_layer
from edgewright.export.weight_match import learnt_ranges
from edgewright.optimize.ranges import streamed_ranges
from edgewright.recipe import RangeCalibration

__all__ = ["calibrated_ranges", "clip_ranges", "use_learnt_ranges"]

_SAME_SCALE = {"RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "MAX_POOL_2D", "AVERAGE_POOL_2D"}


def calibrated_ranges(work: Any, source: Path, dataset: Path) -> Any:
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
    partly = {name: bounds for name, bounds in ranges.items() if np.isnan(bounds["min"]).any()}
    if partly:
        clip_ranges(partly, source, dataset, "min_max", 100.0)
    return _ranked(_without_infinities(ranges, model.subgraphs[0]), model.subgraphs[0])


def clip_ranges(
    ranges: dict[str, Any], source: Path, dataset: Path, method: RangeCalibration, percentile: float
) -> None:
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
    # Constants have ranges of their own, by channel: only what is computed or comes in is narrowed.
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


def use_learnt_ranges(ranges: dict[str, Any], source: Path, graph: Path | None) -> None:
    """Give the layers' inputs the ranges that training learnt, where the graph was trained for int8."""
    learnt = learnt_ranges(graph)
    if graph is None or not learnt:
        return
    model = tflite.load(source)
    tensors = model.subgraphs[0].tensors
    made_by = {int(i): operator for operator in model.subgraphs[0].operators for i in operator.outputs}
    for layer, operators in operators_by_layer(model, graph, learnt).items():
        step, zero = learnt[layer]
        for operator in operators:
            # A transposed convolution reads its output's shape, its weight, and only then the values.
            given = int(operator.inputs[2 if tflite.operator_name(model, operator) == "TRANSPOSE_CONV" else 0])
            while True:
                bounds = ranges[tensors[given].name.decode()]
                # What 0 and 255 stand for: the step was learnt for uint8.
                bounds["min"] = np.full_like(bounds["min"], -zero * step)
                bounds["max"] = np.full_like(bounds["max"], (255 - zero) * step)
                # What only moves values, or averages them, has one scale on both sides.
                if given not in made_by or tflite.operator_name(model, made_by[given]) not in _SAME_SCALE:
                    break
                given = int(made_by[given].inputs[0])


def _widest(known: dict[str, Any], bounds: dict[str, Any]) -> dict[str, Any]:
    return {"min": np.minimum(known["min"], bounds["min"]), "max": np.maximum(known["max"], bounds["max"])}


def _ranked(ranges: dict[str, Any], graph: Any) -> dict[str, Any]:
    """Each bound with as many axes as its tensor; where a constant takes it over, the quantizer refuses another."""
    for tensor in graph.tensors:
        bounds = ranges.get(tensor.name.decode(), {})
        for side, bound in bounds.items():
            bounds[side] = bound.reshape((1,) * len(tensor.shape))
    return ranges


def _without_infinities(ranges: dict[str, Any], graph: Any) -> dict[str, Any]:
    """A tensor padded with minus infinity before a maximum has the range of what was padded."""
    for operator in graph.operators:
        for result in operator.outputs:
            bounds = ranges.get(graph.tensors[result].name.decode())
            if bounds is not None and not all(np.isfinite(bounds[side]).all() for side in ("min", "max")):
                bounds.update(_finite_range(bounds, ranges.get(graph.tensors[operator.inputs[0]].name.decode())))
    return ranges


def _finite_range(bounds: dict[str, Any], source: dict[str, Any] | None) -> dict[str, Any]:
    """The range of what was padded or masked; where that is not known, what of the own one is finite."""
    if source is not None and all(np.isfinite(source[side]).all() for side in ("min", "max")):
        return {side: source[side] for side in ("min", "max")}
    return {side: np.nan_to_num(bounds[side], nan=0.0, posinf=0.0, neginf=0.0) for side in ("min", "max")}
