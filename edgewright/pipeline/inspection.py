"""What a file is, for ``edgewright inspect``: a model, an exported artifact or a bundle."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from edgewright.errors import InputError, MissingLibraryError
from edgewright.export.stored import StoredModel, describe
from edgewright.package import BundleContent, read_bundle
from edgewright.report.figures import accuracy_text
from edgewright.store import Store
from edgewright_runtime.bundle.manifest import MANIFEST_NAME, TensorSpec

__all__ = ["describe_path"]

_SHOWN_OPERATORS = 12


def describe_path(path: Path) -> Table:
    """A table of two columns: property and value.

    Raises:
        InputError: missing, damaged, or of a format that is not known.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    table = Table(title=path.name, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    if (path / MANIFEST_NAME).is_file():
        content = read_bundle(path)
        rows = [*_bundle_rows(content), *_bundled_model_rows(path / content.manifest.model)]
    else:
        model = describe(path)
        made_of = Store().ancestors(model.digest)
        rows = [*_model_rows(model), ("lineage", "\n".join(made_of) or "not made in this store")]
    for name, value in rows:
        table.add_row(name, value)
    return table


def _bundle_rows(content: BundleContent) -> Iterable[tuple[str, str]]:
    manifest, artifact = content.manifest, content.artifact
    yield "bundle", f"{manifest.name} for {manifest.platform}, {manifest.format} {manifest.precision}"
    yield "bundle digest", artifact.digest
    yield "bundle size", f"{artifact.size_bytes:,} B, its model to download {manifest.measurements.download_bytes:,} B"
    yield "runtime", f"{manifest.runtime.name} {manifest.runtime.minimum_version} or newer"
    yield "verdict", "passed" if content.report.passed else "over budget"
    accuracy = content.report.candidate.accuracy
    if accuracy:
        yield "accuracy", accuracy_text(accuracy)
    if manifest.labels:
        yield "labels", ", ".join(manifest.labels)
    for name, digest in asdict(manifest.lineage).items():
        yield f"lineage: {name}", digest
    yield "files", "\n".join(f"{entry.path}  {entry.bytes:,} B" for entry in manifest.files)


def _bundled_model_rows(path: Path) -> Iterable[tuple[str, str]]:
    """A bundle says most of itself, also where no library reads its model."""
    try:
        yield from _model_rows(describe(path))
    except MissingLibraryError as e:
        yield "model file", f"not looked into: {e}"


def _model_rows(model: StoredModel) -> Iterable[tuple[str, str]]:
    yield "format", model.format.value
    yield "digest", model.digest
    yield "size", f"{model.size_bytes:,} B"
    yield "inputs", "\n".join(map(_tensor, model.inputs)) or "not stored in the file"
    yield "outputs", "\n".join(map(_tensor, model.outputs)) or "not stored in the file"
    yield "parameters", f"{model.parameters:,}"
    if model.sparsity is not None:
        yield "sparsity", f"{model.sparsity:.2%} zeros"
    yield (
        "stored as",
        "\n".join(f"{w.dtype}: {w.elements:,} in {w.tensors} tensors, {w.bytes:,} B" for w in model.weights) or "none",
    )
    operators = list(model.operators.items())
    if operators:
        rest = len(operators) - _SHOWN_OPERATORS
        shown = ", ".join(f"{name} x{count}" for name, count in operators[:_SHOWN_OPERATORS])
        yield "operators", shown + (f" and {rest} more kinds" if rest > 0 else "")
    for note in model.notes:
        yield "note", note


def _tensor(spec: TensorSpec) -> str:
    shape = ", ".join("N" if size < 0 else str(size) for size in spec.shape)
    description = f"{spec.name} ({shape}) {spec.dtype}"
    return description if spec.scale is None else f"{description}, scale {spec.scale:.6g}, zero point {spec.zero_point}"
