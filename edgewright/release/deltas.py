"""What spares devices a full download: patches from the release before, where they are smaller."""

import hashlib
from pathlib import Path

from edgewright.artifact import Format
from edgewright.codec.download import unpacked
from edgewright.progress import progress
from edgewright.release.patches import BuiltPatch, build_patches, patch_kind
from edgewright.release.repository import ReleaseRepository
from edgewright_runtime.bundle.manifest import Manifest
from edgewright_runtime.bundle.release import Blob, FileDelta, Patch, ReleaseDocument
from edgewright_runtime.codec.patch import MAX_PATCHED_BYTES

__all__ = ["patch_from"]


def patch_from(
    before: ReleaseDocument, manifest: Manifest, folder: Path, files: ReleaseRepository, blobs: tuple[Blob, ...]
) -> Patch | None:
    """A patch from the release before to the bundle in ``folder``; None where there is nothing to spare.

    A file whose patch cannot be made is downloaded in full: that never fails a release.
    """
    if manifest.format == Format.MLPACKAGE:
        return None  # iOS apps fetch whole packages: Core ML compiles them on arrival
    old = {blob.path: blob for blob in before.files}
    changed = [blob for blob in blobs if blob.path in old and old[blob.path].sha256 != blob.sha256]
    deltas: list[FileDelta] = []
    # Until the model file itself turns out to be changed.
    kind = patch_kind(manifest.model, None, None)
    for blob in changed:
        base = files.read(old[blob.path].name)
        if base is None or hashlib.sha256(base).hexdigest() != old[blob.path].blob:
            continue  # a damaged base costs its devices a full download, nothing else
        try:
            file_kind, built = _built(old[blob.path], blob, base, folder)
        except Exception as e:  # whatever a reader of models or a codec raises: see the docstring
            reason = (str(e) or type(e).__name__).splitlines()[0][:200]
            progress.note(f"no patch for {blob.path}, which devices download in full: {reason}")
            continue
        kind = file_kind if blob.path == manifest.model else kind
        deltas += [_kept(patch, old[blob.path], blob, files) for patch in built]
    model_stays = any(blob.path == manifest.model and blob not in changed and blob.path in old for blob in blobs)
    return Patch(before.manifest.sha256, kind, tuple(deltas)) if deltas or model_stays else None


def _built(base_blob: Blob, blob: Blob, packed: bytes, folder: Path) -> tuple[str, list[BuiltPatch]]:
    """What happened to a file (see `patch_kind`), and its patches that are smaller than the file's own transfer."""
    # Devices refuse larger ones: they patch in memory.
    if max(blob.bytes, base_blob.bytes) > MAX_PATCHED_BYTES:
        return "weight_update", []
    base, new = unpacked(packed, base_blob.bytes), (folder / blob.path).read_bytes()
    smaller = [patch for patch in build_patches(blob.path, base, new) if len(patch.content) < blob.blob_bytes]
    return patch_kind(blob.path, base, new), smaller


def _kept(patch: BuiltPatch, base_blob: Blob, blob: Blob, files: ReleaseRepository) -> FileDelta:
    digest = hashlib.sha256(patch.content).hexdigest()
    delta = FileDelta(blob.path, blob.path, base_blob.sha256, patch.codec, digest, len(patch.content))
    files.keep(delta.name, patch.content, digest)
    return delta
