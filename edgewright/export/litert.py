"""The child's side of Android exports; what is imported here, only a child process pays for."""

from pathlib import Path
from typing import Any

from edgewright.artifact import Precision
from edgewright.errors import ConversionError
from edgewright.export import tflite
from edgewright.export.calibration import calibration_rows
from edgewright.export.refusal import unsupported_precision

__all__ = ["convert", "quantize"]


def convert(graph: str, inputs: list[dict[str, Any]], outputs: list[str], path: str) -> None:
    """Torch graph to a float32 `.tflite` of batch 1, its tensors named as the source's."""
    import litert_torch

    from edgewright.export.graph_input import example_inputs
    from edgewright.intake import torch_graph

    module = torch_graph.load(Path(graph)).eval()
    litert_torch.convert(module, example_inputs(inputs)).export(path)
    tflite.name_tensors(Path(path), [spec["name"] for spec in inputs], outputs)


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
    key = tflite.load(source).signatureDefs[0].signatureKey.decode()
    names = [spec["name"] for spec in tflite.tensors(str(source))["inputs"]]
    return work.calibrate({key: list(calibration_rows(dataset, names))})
