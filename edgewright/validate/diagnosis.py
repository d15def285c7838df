"""An exported file, or one that anybody made, against its model: layer by layer, with a verdict on each."""

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgewright.artifact import Artifact, Dataset, Exported, Format, ImportedModel, Precision
from edgewright.child import deferred, run_in_child
from edgewright.data import DataSpec
from edgewright.errors import DisagreementError, InputError, UnsupportedError
from edgewright.export import export
from edgewright.export.declaration import File
from edgewright.export.declared import MIN_SNR_DB, PARITY_LIMITS
from edgewright.export.diagnosis_report import Comparison, LayerDifference
from edgewright.export.stored import format_of
from edgewright.intake import take_in
from edgewright.profile import Platform
from edgewright.store import Store

if TYPE_CHECKING:
    from edgewright.export.diagnosis.comparison import compare
else:
    compare = deferred("edgewright.export.diagnosis.comparison:compare")

__all__ = ["Diagnosed", "diagnose", "verdict"]

_FORMATS = {Platform.ANDROID: Format.TFLITE, Platform.IOS: Format.MLPACKAGE, Platform.EDGE_DEVICE: Format.ONNX}


class Diagnosed(Comparison):
    """The comparison, of which file, and what its export had to say."""

    file: str
    notes: tuple[str, ...]


def diagnose(
    model: Path, data: DataSpec, platform: Platform, precision: Precision, exported: Path | None, store: Store
) -> Diagnosed:
    """Take a source model in, export it unless a file is given, and compare the two.

    Raises:
        InputError: the model, the data or the file cannot be used.
        UnsupportedError: the model has no way to the platform, or the file holds an operator that is not run here.
        ConversionError: a converter failed.
    """
    form = _FORMATS[platform]
    if exported is not None and (file_form := format_of(exported)) is not form:
        raise InputError(f"{exported}: a {file_form} file; {platform} takes {form}: give --platform that fits it")
    taken = take_in(model, data, store)
    notes: tuple[str, ...] = ()
    path = exported
    if path is None:
        artifact, notes = _made(taken.model, taken.dataset, platform, precision, store)
        path = artifact.path
    # The graph where there is one: its layers are those that the techniques and the exporters know.
    reference = taken.model.graph or taken.model.onnx
    if reference is None:
        raise UnsupportedError(f"{model}: the source is known by its answers alone here, so no layer can be compared")
    job = partial(
        compare,
        reference=File(reference.path, reference.format),
        exported=File(path.absolute(), form),
        dataset=taken.dataset.artifact.path,
        inputs=[spec.name for spec in taken.model.inputs],
        outputs=[spec.name for spec in taken.model.outputs],
        limits={precision.value: limit for precision, limit in PARITY_LIMITS.items()},
        min_snr_db=MIN_SNR_DB,
    )
    compared = run_in_child(job, returns=Comparison, what=f"comparing {path.name} with {model.name}").value
    return Diagnosed(**dict(compared), file=path.name, notes=notes)


def _made(
    model: ImportedModel, dataset: Dataset, platform: Platform, precision: Precision, store: Store
) -> tuple[Artifact, tuple[str, ...]]:
    """The exported file, also where it disagrees: that is what is looked into."""
    try:
        exported: Exported = export(model, dataset, platform, precision, store)
    except DisagreementError as e:
        if not isinstance(e.exported, Artifact):
            raise
        return e.exported, (f"the export refuses this file: {e}",)
    return exported.artifact, exported.notes


def verdict(compared: Comparison, layer: LayerDifference) -> str:
    """One word or two on a layer: ``wrong``; ``comes in wrong``; ``agrees``; ``rounded``; ``within another``."""
    wrong = {(culprit.layer, culprit.operator.value) for culprit in compared.diagnosis.culprits}
    if (layer.layer, layer.value) in wrong or (not layer.value and layer.layer in {name for name, _ in wrong}):
        return "wrong"
    if not layer.value:
        return "within another"
    limit = {precision.value: limit for precision, limit in PARITY_LIMITS.items()}.get(compared.diagnosis.dtype)
    if limit is None:
        return "rounded" if layer.snr_db >= MIN_SNR_DB else "comes in wrong"
    if layer.largest <= limit:
        return "agrees"
    # An operator within its limit on the model's own values, or not run on them, is not the one that is wrong.
    return "comes in wrong" if layer.own_largest <= limit or math.isnan(layer.own_largest) else "wrong"
