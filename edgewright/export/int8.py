"""How a network becomes int8: what each platform's quantizer is told."""

from pathlib import Path

from edgewright.artifact import ImportedModel
from edgewright.errors import UnsupportedError
from edgewright.recipe import Quantize, RangeCalibration
from edgewright.value import Value

__all__ = ["Int8", "int8_of"]


class Int8(Value):
    """How activations' ranges are found, and the layers of the torch ``graph`` that stay float: ``float_layers``, each
    of which the file must hold, and of ``noisy_layers`` those that it holds by that layer's values."""

    calibration: RangeCalibration = "min_max"
    percentile: float = 99.99
    float_layers: tuple[str, ...] = ()
    noisy_layers: tuple[str, ...] = ()
    graph: Path | None = None


def int8_of(model: ImportedModel, quantization: Quantize) -> Int8:
    """What a recipe asks for, of this model.

    Raises:
        UnsupportedError: layers are named, and the model has no torch graph whose layers they could be.
    """
    layers = () if quantization.float_layers == "auto" else tuple(quantization.float_layers)
    if layers and model.graph is None:
        raise UnsupportedError(f"{model.name} has no layers by name: {model.graph_refusal}; leave float_layers out")
    return Int8(
        calibration=quantization.calibration,
        percentile=quantization.percentile,
        float_layers=layers,
        graph=model.graph.path if model.graph else None,
    )
