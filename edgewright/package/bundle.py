"""Puts a bundle together, and reads one back."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgewright.artifact import Artifact, Dataset, Exported, Format, ImportedModel, digest_of, size_of
from edgewright.codec.download import download_bytes
from edgewright.errors import InputError
from edgewright.measurement import ValidationReport
from edgewright.monitor.plan import MonitoringPlan
from edgewright.package.calibration import calibrate
from edgewright.package.example import write_example
from edgewright.package.golden import GOLDEN_NAME, GoldenVectors, record
from edgewright.package.scores import scores_of
from edgewright.package.snippet import write_snippet
from edgewright.profile import DeviceProfile
from edgewright.report.page import report_html
from edgewright.store import Store
from edgewright.value import Value
from edgewright_runtime.bundle.manifest import (
    MANIFEST_NAME,
    Figures,
    FileEntry,
    Golden,
    Lineage,
    Manifest,
    RuntimeNeed,
)
from edgewright_runtime.bundle.monitoring import Monitoring
from edgewright_runtime.bundle.opening import open_bundle
from edgewright_runtime.errors import IntegrityError

__all__ = ["REPORT_NAME", "Bundle", "BundleContent", "build_bundle", "read_bundle"]

REPORT_NAME, REPORT_PAGE_NAME = "report.json", "report.html"
# For ONNX Runtime's own build: tools/ci_build/build.py --include_ops_by_config (beside --minimal_build).
OPERATORS_NAME = "required_operators.config"


class Bundle(Value):
    """A folder that holds everything a device needs; ``manifest_digest`` (SHA-256) identifies all of it.

    ``download_bytes`` is the transfer form of all files: ``.ewz`` or xz.
    """

    artifact: Artifact
    manifest_digest: str
    download_bytes: int


class BundleContent(Value):
    """What a bundle says of itself. ``report`` is the validation's, with file names for paths."""

    artifact: Artifact
    manifest: Manifest
    report: ValidationReport

    @property
    def bundle(self) -> Bundle:
        """The bundle as the pipeline knows it; its transfer form is computed for that."""
        return _bundle(self.artifact)


def build_bundle(
    model: ImportedModel,
    dataset: Dataset,
    exported: Exported,
    report: ValidationReport,
    device: DeviceProfile,
    store: Store,
    *,
    monitoring: MonitoringPlan | None = None,
) -> Bundle:
    """A bundle in the store; the same inputs give the same digest.

    Raises:
        InputError: the dataset lacks the test rows that golden vectors and the example are made of.
        ConversionError: the exported file crashes its runtime.
    """
    plan = (monitoring or MonitoringPlan()).with_limits_of(report, device.policy)
    # Part of file names: letters that every file system and every platform's tools take.
    name = re.sub(r"[^A-Za-z0-9]+", "_", model.name).strip("_") or "model"
    with store.workspace() as scratch:
        folder = scratch / f"{name}-{device.platform.value}"
        folder.mkdir()
        golden, notes = record(exported, dataset, scratch)
        golden.save(folder / GOLDEN_NAME)
        file = f"{name}{exported.artifact.path.suffix}"
        _copy(exported.artifact.path, folder / file)
        if exported.required_operators:
            (folder / OPERATORS_NAME).write_text(exported.required_operators, encoding="utf-8")
        write_example(folder, model, dataset)
        (folder / REPORT_NAME).write_text(_portable(report), encoding="utf-8")
        page = report_html(report, model=model.name, device=device.title)
        (folder / REPORT_PAGE_NAME).write_text(page, encoding="utf-8")
        described = _described(model, dataset, exported, report, golden)
        manifest = replace(
            described,
            calibration=calibrate(model, dataset, exported, described.scores, scratch),
            platform=device.platform.value,
            model=file,
            monitoring=plan.on_device(),
            notes=(*report.warnings, *model.notes, *exported.notes, *notes),
            runtime=replace(described.runtime, threads=device.threads, kernels=device.kernels),
        )
        # Before the seal: the code is one of the files that the manifest lists.
        write_snippet(folder, manifest, device.export)
        return _sealed(folder, manifest, exported.artifact.digest, store)


def read_bundle(path: Path) -> BundleContent:
    """Read a bundle's folder, after a comparison of every file with its digest.

    Raises:
        InputError: not a bundle, or one that was changed or holds a file that its manifest does not list.
    """
    try:
        manifest = open_bundle(path)
    except IntegrityError as e:
        raise InputError(f"bundle {path}: {e}") from e
    # Only what is listed has a digest: another file would travel unchecked.
    paths = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
    extra = paths - {entry.path for entry in manifest.files} - {MANIFEST_NAME}
    if extra:
        raise InputError(f"bundle {path}: holds files that its manifest does not list: {sorted(extra)[:3]}")
    try:
        report = ValidationReport.model_validate_json((path / REPORT_NAME).read_bytes())
    except (OSError, ValidationError) as e:
        raise InputError(f"bundle {path}: {REPORT_NAME} cannot be read: {str(e).splitlines()[0]}") from e
    artifact = Artifact(
        path=path,
        format=Format.BUNDLE,
        digest=digest_of(path),
        size_bytes=size_of(path),
        parent=manifest.lineage.model,
    )
    return BundleContent(artifact=artifact, manifest=manifest, report=report)


def _described(
    model: ImportedModel, dataset: Dataset, exported: Exported, report: ValidationReport, golden: GoldenVectors
) -> Manifest:
    """The manifest, but for what depends on the device and for the list of files."""
    return Manifest(
        name=model.name,
        platform="",
        format=exported.artifact.format.value,
        precision=exported.precision.value,
        model="",
        files=(),
        inputs=exported.inputs,
        outputs=exported.outputs,
        preprocessing=model.preprocessing,
        task=model.task.value,
        labels=model.labels,
        scores=scores_of(model, dataset, exported),
        runtime=RuntimeNeed(exported.runtime, exported.runtime_floor, processor=exported.made_for),
        golden=Golden(GOLDEN_NAME, golden.rows, golden.tolerance, golden.made_by),
        calibration=None,
        measurements=_figures(report),
        budget=report.budget,
        lineage=Lineage(
            model.source.digest,
            (model.inside or model.source).digest,
            dataset.artifact.digest,
            exported.artifact.digest,
        ),
        monitoring=Monitoring(),
    )


def _sealed(folder: Path, manifest: Manifest, parent: str, store: Store) -> Bundle:
    """List the files, write the manifest, check that a device would accept it, and put the folder into the store."""
    # Sorted, so that the same content gives the same manifest, byte for byte.
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    entries = tuple(FileEntry(p.relative_to(folder).as_posix(), p.stat().st_size, digest_of(p)) for p in files)
    content = replace(manifest, files=entries).to_json()
    Manifest.from_json(content)
    (folder / MANIFEST_NAME).write_bytes(content)
    return _bundle(store.put(folder, Format.BUNDLE, parent=parent))


def _bundle(artifact: Artifact) -> Bundle:
    return Bundle(
        # The manifest lists the digest of every other file, so its own stands for all of them.
        artifact=artifact,
        manifest_digest=digest_of(artifact.path / MANIFEST_NAME),
        download_bytes=download_bytes(artifact.path),
    )


def _figures(report: ValidationReport) -> Figures:
    candidate, accuracy, latency = report.candidate, report.candidate.accuracy, report.candidate.latency
    return Figures(
        target=candidate.target,
        metric=accuracy.metric if accuracy else None,
        accuracy=accuracy.value if accuracy else None,
        accuracy_low=accuracy.low if accuracy else None,
        accuracy_high=accuracy.high if accuracy else None,
        accuracy_rows=accuracy.rows if accuracy else None,
        source_accuracy=report.source_accuracy.value if report.source_accuracy else None,
        latency_p50_ms=latency.p50_ms if latency else None,
        latency_p95_ms=latency.p95_ms if latency else None,
        latency_p99_ms=latency.p99_ms if latency else None,
        load_ms=candidate.load_ms,
        added_memory_mb=candidate.added_memory_mb,
        size_bytes=candidate.artifact.size_bytes,
        download_bytes=candidate.download_bytes,
    )


def _portable(report: ValidationReport) -> str:
    """The report as JSON; a path of this machine would neither help a device nor be the same elsewhere."""
    content = _names_for_paths(report.model_dump(mode="json"))
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _names_for_paths(value: Any) -> Any:
    if isinstance(value, dict):
        # Wherever an artifact is nested in the report, its path stands under this key.
        return {k: Path(v).name if k == "path" else _names_for_paths(v) for k, v in value.items()}
    return [_names_for_paths(v) for v in value] if isinstance(value, list) else value


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
