"""Intake: a trained model of any source and its real data become ONNX, a torch graph and encoded rows.

Nothing here imports an ML framework; the work runs in a child process.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgewright.artifact import Artifact, Format, Intake
from edgewright.child import deferred, run_in_child
from edgewright.data import NAMED_METRICS, DataSpec
from edgewright.errors import InputError
from edgewright.forking import Frameworks
from edgewright.intake.companion_files import companion_files
from edgewright.intake.formats import detect_format
from edgewright.progress import progress
from edgewright.scratch import scratch_folder, system_scratch
from edgewright.statistics.metric import check_metric
from edgewright.store import Store

if TYPE_CHECKING:
    from edgewright.intake.child import check as check_source
    from edgewright.intake.child import take_in as take_in_source
else:
    check_source = deferred("edgewright.intake.child:check")
    take_in_source = deferred("edgewright.intake.child:take_in")

__all__ = ["companion_files", "detect_format", "preflight", "take_in"]


def preflight(model: Path, data: DataSpec) -> None:
    """Every check that costs seconds, before any that costs minutes; nothing is written.

    Raises:
        InputError: the model or the data cannot be used: missing, unreadable, truncated, of an unknown format, without
            the target column, of different lengths, with NaN where the model takes none, of a shape that does not fit.
        UntrustedModelError: the model file asks for code outside the allow-list; none of it has run.
        UnsupportedError: the model applies a function that has no path.
    """
    # Before a child is started: a file that is not a model costs no import of a framework.
    detect_format(model)
    if (metric := data.chosen_metric) is not None and metric.name not in NAMED_METRICS:
        run_in_child(partial(check_metric, metric), what=f"importing the metric {metric.name}", timeout_s=120)
    run_in_child(
        partial(check_source, model, data),
        what=f"looking into {model.name}",
        timeout_s=120,
        is_confined=_is_foreign(model),
        frameworks=_frameworks(model, data),
    )


def take_in(model: Path, data: DataSpec, store: Store, *, name: str | None = None) -> Intake:
    """Bring a model and its data inside: the same file and data give the same digests.

    Raises:
        InputError, UntrustedModelError: as `preflight`; the store is then as it was.
        UnsupportedError: the model holds something that has no way into ONNX.
        ConversionError: an exporter failed, or the imported graph disagrees with the source model.
    """
    detect_format(model)
    # The child writes here alone; the store is touched only once all has succeeded.
    with scratch_folder(system_scratch()) as scratch:
        done = run_in_child(
            partial(take_in_source, model, data, scratch, name or model.stem),
            returns=Intake,
            what=f"taking in {model.name}",
            writes=[scratch],
            is_confined=_is_foreign(model),
            frameworks=_frameworks(model, data),
        )
        return _kept(done.value, store, done.unconfined)


def _frameworks(model: Path, data: DataSpec) -> Frameworks:
    """What opens them. Keras and TensorFlow are opened in a child of that child."""
    # A table needs pandas, and a model of scikit-learn its library, whatever form the data has.
    has_table = data.path.suffix != ".npz" or detect_format(model) is Format.SKLEARN
    return Frameworks.TABLES if has_table else Frameworks.TORCH


def _is_foreign(model: Path) -> bool:
    """Whether it may come from others: a factory is code of the user's own, and may fetch weights."""
    return detect_format(model) is not Format.TORCH_FACTORY


def _kept(intake: Intake, store: Store, unconfined: str) -> Intake:
    """The same with its files in the store: what opens a source writes into no store itself."""

    def in_store(artifact: Artifact) -> Artifact:
        copy = store.put(artifact.path, artifact.format, parent=artifact.parent)
        # The child took its digest when it read the file; another one means that the file was written to since.
        if copy.digest != artifact.digest:
            raise InputError(f"{artifact.path.name}: changed while it was taken in; try again when nobody writes it")
        return copy

    model = intake.model
    files = {"source": model.source, "onnx": model.onnx, "graph": model.graph}
    changed: dict[str, Any] = {name: in_store(file) for name, file in files.items() if file is not None}
    if unconfined:
        note = f"the source was opened without all of the sandbox: {unconfined}"
        progress.note(note)
        changed["notes"] = (*model.notes, note)
    dataset = intake.dataset.model_copy(update={"artifact": in_store(intake.dataset.artifact)})
    return intake.model_copy(update={"model": model.model_copy(update=changed), "dataset": dataset})
