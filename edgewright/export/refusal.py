"""What is refused before any converter starts."""

from pathlib import Path

from edgewright.artifact import ImportedModel, Precision
from edgewright.errors import UnsupportedError

__all__ = ["graph_of", "other_ways", "refuse_meaningless", "unsupported_precision"]


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


def other_ways(*platforms: str) -> str:
    """What may be done about an operation that a converter lacks; whether another takes it shows when it is tried."""
    return f"write it in other operations; the converters of {' and '.join(platforms)} are others and may know it"
