"""The child's side of Android exports; what is imported here, only a child process pays for."""

from pathlib import Path
from typing import Any

from edgewright.artifact import Precision
from edgewright.errors import ConversionError, UnsupportedError
from edgewright.export import tflite
from edgewright.export.calibration import CalibrationRows
from edgewright.export.refusal import unsupported_precision

__all__ = ["convert", "name_tensors", "quantize"]


def convert(graph: str, inputs: list[dict[str, Any]], path: str) -> None:
    """Torch graph to a float32 `.tflite` of batch 1; inputs and outputs are numbered."""
    import litert_torch
    import torch

    from edgewright.export.graph_input import example_inputs
    from edgewright.intake import torch_graph

    module = torch_graph.load(Path(graph)).eval()
    try:
        with torch.no_grad():
            converted = litert_torch.convert(module, example_inputs(inputs))
    except NotImplementedError as e:
        raise UnsupportedError(f"LiteRT: {str(e).splitlines()[0]}; try the platform edge_device") from e
    # The converter holds a copy by now; writing the file needs the memory.
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.new_empty(0)
    converted.export(path)


def name_tensors(path: str, inputs: list[str], outputs: list[str]) -> None:
    """Name the tensors of a converted file as the source's; see `tflite.name_tensors`."""
    tflite.name_tensors(Path(path), inputs, outputs)


def quantize(source: str, name: str, precision: str, path: str, dataset: str | None = None) -> None:
    """A float32 `.tflite` in fewer bits; inputs and outputs stay float.

    int8 is static_wi8_ai8 of ai-edge-quantizer: weights per channel and symmetric, activations per tensor.

    Raises:
        UnsupportedError: the quantizer found no operator to quantize.
    """
    from ai_edge_quantizer import quantizer, recipe
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import TFLOperationName

    work = quantizer.Quantizer(source)
    ranges = None
    if precision == Precision.FLOAT16:
        work.add_weight_only_config(
            regex=".*",
            operation_name=TFLOperationName.ALL_SUPPORTED,
            num_bits=16,
            algorithm_key=AlgorithmName.FLOAT_CASTING,
        )
    elif dataset is not None:
        work.load_quantization_recipe(recipe.static_wi8_ai8())
        for side in (TFLOperationName.INPUT, TFLOperationName.OUTPUT):
            work.update_quantization_recipe(".*", side, algorithm_key=AlgorithmName.NO_QUANTIZE)
        ranges = _ranges(work, Path(source), Path(dataset))
    else:
        raise ConversionError(f"{name}: {precision} needs a dataset to calibrate with")
    Path(path).write_bytes(work.quantize(ranges, enable_progress_report=False).quantized_model)
    wanted = {Precision.FLOAT16: "float16", Precision.INT8: "int8"}[Precision(precision)]
    if not any(tflite.DTYPES[t.type] == wanted for t in tflite.load(Path(path)).subgraphs[0].tensors):
        raise unsupported_precision(name, Precision(precision), "it holds no convolution or dense layer to quantize")


def _ranges(work: Any, source: Path, dataset: Path) -> Any:
    """Smallest and largest value of each tensor over the calibration rows."""
    from ai_edge_quantizer.calibrator import CalibrationMode

    model = tflite.load(source)
    names = [spec["name"] for spec in tflite.tensors(str(source))["inputs"]]
    rows = {model.signatureDefs[0].signatureKey.decode(): CalibrationRows(dataset, names)}
    # The runtime's own profiler: the quantizer's default keeps every tensor, in twice the memory and time.
    ranges = work.calibrate(rows, mode=CalibrationMode.CALIBRATION_PROFILER_BASED)
    return _without_infinities(ranges, model.subgraphs[0])


def _without_infinities(ranges: dict[str, Any], graph: Any) -> dict[str, Any]:
    """A tensor padded with minus infinity before a maximum has the range of what was padded."""
    import numpy as np

    for operator in graph.operators:
        for result in operator.outputs:
            found = ranges.get(graph.tensors[result].name.decode())
            if found is not None and not all(np.isfinite(found[side]).all() for side in ("min", "max")):
                found.update(ranges[graph.tensors[operator.inputs[0]].name.decode()])
    return ranges
