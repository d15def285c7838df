"""Intake, as a task."""

from pathlib import Path

from edgewright.artifact import Intake
from edgewright.data import DataSpec
from edgewright.store import Store
from tasks.caching import step

__all__ = ["take_in"]


@step("Taking in the model and its data", "edgewright.intake")
def take_in(model: Path, data: DataSpec, files: tuple[Path, ...] = (), code: str = "") -> Intake:
    """Turn a trained model into ONNX and a torch graph, and split its data; see `edgewright.intake.take_in`.

    ``files`` and ``code`` key the result to what belongs to the model; see `edgewright.intake.companion_files`.
    """
    from edgewright import intake

    return intake.take_in(model, data, Store())
