"""An exporter of another distribution: it writes the platform's format its own way, and is judged like ours."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from edgewright.artifact import Artifact, Dataset, Exported, Format, ImportedModel, Precision
from edgewright.child import run_in_child
from edgewright.errors import ConversionError
from edgewright.export import android, edge_device, ios
from edgewright.export.declared import checked
from edgewright.export.stored import format_of
from edgewright.plugins import plugin
from edgewright.profile import EXPORTER_PLUGINS, Platform
from edgewright.store import Store

__all__ = ["export"]

_LIMIT_S = 3600.0


class _Native(NamedTuple):
    """A platform's format, what loads it on the device, and the oldest version of that which is supported."""

    form: Format
    runtime: str
    floor: str


_NATIVE = {
    Platform.ANDROID: _Native(Format.TFLITE, android.RUNTIME, android.RUNTIME_FLOOR),
    Platform.IOS: _Native(Format.MLPACKAGE, ios.RUNTIME, ios.RUNTIME_FLOOR),
    Platform.EDGE_DEVICE: _Native(Format.ONNX, edge_device.RUNTIME, edge_device.RUNTIME_FLOOR),
}


def export(
    name: str, model: ImportedModel, dataset: Dataset, platform: Platform, precision: Precision, store: Store
) -> Exported:
    """What the exporter registered as ``name`` makes of the model; compared with it on real rows as any file is.

    Raises:
        ConversionError: it fails, writes nothing or another format, or its file answers otherwise than the model.
        ProfileError: it cannot be imported.
        UnsupportedError: its own refusal.
    """
    native = _NATIVE[platform]
    with store.workspace() as scratch:
        job = partial(_run, name, model, dataset, precision, scratch)
        job_name = f"exporter {name} on {model.name}"
        written = Path(run_in_child(job, returns=str, what=job_name, timeout_s=_LIMIT_S, writes=[scratch]).value)
        # Resolved, since the answer may be absolute, hold ".." or be a link out of the folder.
        if not written.exists() or not written.resolve().is_relative_to(scratch.resolve()):
            raise ConversionError(f"{job_name}: '{written}' is not a file in the folder that it was given")
        if (form := format_of(written)) is not native.form:
            raise ConversionError(f"{job_name}: wrote {form}, {platform} loads {native.form}")
        artifact: Artifact = store.put(written, native.form, parent=(model.inside or model.source).digest)
    declared = checked(model, artifact, dataset, precision)
    return Exported(
        artifact=artifact,
        precision=precision,
        inputs=declared.inputs,
        outputs=declared.outputs,
        notes=(f"made by the exporter {name}", *declared.notes),
        runtime=native.runtime,
        runtime_floor=declared.runtime_floor or native.floor,
    )


def _run(name: str, model: ImportedModel, dataset: Dataset, precision: Precision, folder: Path) -> str:
    exporter: Any = plugin(EXPORTER_PLUGINS, name, callable, "a function (model, dataset, precision, folder) to a path")
    # A relative answer is one in the folder; before an absolute one the folder drops out.
    return str(folder / exporter(model, dataset, precision, folder))
