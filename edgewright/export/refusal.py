"""What is refused before any converter starts."""

from pathlib import Path
from typing import Any

from edgewright.artifact import ImportedModel, Precision
from edgewright.errors import UnsupportedError
from edgewright.recipe import Quantize

__all__ = ["graph_of", "quantization_arguments", "refuse_meaningless", "unsupported_precision"]


def refuse_meaningless(model: ImportedModel, precision: Precision) -> None:
    """Refuse a precision that would change what the model decides rather than how exactly it computes.

    Raises:
        UnsupportedError: fewer bits for a model whose decisions rest on float32 thresholds, or with an operator that
            computes in float32 only.
    """
    if precision is Precision.FLOAT32:
        return
    if model.float32_reason:
        raise UnsupportedError(f"{model.name}: {precision} {model.float32_reason}; it stays float32")
    if model.float32_only:
        raise UnsupportedError(
            f"{model.name}: {precision} would move the thresholds that its decisions rest on; it stays float32"
        )


def graph_of(model: ImportedModel, platform: str) -> Path:
    """The torch graph that a converter starts from.

    Raises:
        UnsupportedError: the importer had none; names the operator and the platform that still works.
    """
    if model.graph is None:
        works = "; edge_device still works (ONNX directly)" if model.onnx else ""
        raise UnsupportedError(f"{model.name} has no path to {platform}: {model.graph_refusal}{works}")
    return model.graph.path


def unsupported_precision(name: str, precision: Precision, why: str) -> UnsupportedError:
    """The one wording for a quantizer that found nothing to do."""
    return UnsupportedError(f"{name}: {precision} has no benefit here: {why}")


def quantization_arguments(model: ImportedModel, quantization: Quantize) -> dict[str, Any]:
    """What a converter's child is told of int8; ``graph`` is what the layers' names are those of.

    Raises:
        UnsupportedError: layers are named, and the model has no torch graph whose layers they could be.
    """
    layers = [] if quantization.float_layers == "auto" else list(quantization.float_layers)
    if layers and model.graph is None:
        raise UnsupportedError(f"{model.name} has no layers by name: {model.graph_refusal}; leave float_layers out")
    return {
        "calibration": quantization.calibration,
        "percentile": quantization.percentile,
        "float_layers": layers,
        "graph": str(model.graph.path) if model.graph else "",
    }
