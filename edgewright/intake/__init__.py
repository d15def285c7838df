"""The door: a trained model of any source and its real data become ONNX, a torch graph and encoded rows.

Nothing here imports an ML framework; the work runs in a child process.
"""

from pathlib import Path

from edgewright.artifact import Intake
from edgewright.child import run_in_child
from edgewright.data import DataSpec
from edgewright.intake.belongings import belongings
from edgewright.intake.formats import detect_format
from edgewright.store import Store

__all__ = ["belongings", "detect_format", "preflight", "take_in"]


def preflight(model: Path, data: DataSpec) -> None:
    """Every check that costs seconds, before any that costs minutes; nothing is written.

    Raises:
        InputError: the model or the data cannot be used: missing, unreadable, truncated, of an unknown format, without
            the target column, of different lengths, with NaN where the model takes none, of a shape that does not fit.
        UntrustedModelError: the model file asks for code outside the allow-list; none of it has run.
    """
    detect_format(model)
    arguments = {"model": str(model), "data": data.model_dump_json()}
    run_in_child("edgewright.intake.door:check", arguments, what=f"looking into {model.name}", timeout_s=120)


def take_in(model: Path, data: DataSpec, store: Store, *, name: str | None = None) -> Intake:
    """Bring a model and its data inside: the same file and data give the same digests.

    Raises:
        InputError, UntrustedModelError: as `preflight`; the store is then as it was.
        UnsupportedError: the model holds something that has no way into ONNX.
        ConversionError: an exporter failed, or the imported graph disagrees with the source model.
    """
    detect_format(model)
    arguments = {
        "model": str(model),
        "data": data.model_dump_json(),
        "store": str(store.root),
        "name": name or model.stem,
    }
    done = run_in_child("edgewright.intake.door:take_in", arguments, what=f"taking in {model.name}")
    return Intake.model_validate_json(done.value)
