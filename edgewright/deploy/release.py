"""Publishing a bundle as the newest version of a channel, and rolling a channel back."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edgewright.artifact import Format, Value
from edgewright.deploy.patches import build_patches, patch_kind
from edgewright.deploy.repository import ReleaseRepository
from edgewright.errors import InputError
from edgewright.monitor.plan import MonitoringPlan
from edgewright.package import Bundle, read_bundle
from edgewright.validate.download import transfer_form, unpacked
from edgewright_runtime.errors import IntegrityError
from edgewright_runtime.manifest import MANIFEST_NAME, FileEntry, Manifest
from edgewright_runtime.patch import MAX_PATCHED_BYTES
from edgewright_runtime.release import (
    Blob,
    ChannelIndex,
    FileDelta,
    Patch,
    ReleaseDocument,
    check_release,
    index_path,
    judge_index,
    parse_release,
    release_path,
)

__all__ = ["Release", "current_document", "current_release", "publish", "rollback"]


class Release(Value):
    """A version of a channel. ``content_of`` is the version whose content a rollback brought back."""

    version: int
    channel: str
    bundle_digest: str
    manifest_digest: str
    repository: str
    cohort_percent: int
    previous_version: int | None
    content_of: int | None = None
    download_bytes: int


def publish(
    bundle: Bundle,
    repository: str,
    channel: str,
    *,
    cohort_percent: int = 100,
    monitoring: MonitoringPlan | None = None,
) -> Release:
    """Make a bundle the newest version of a channel; what is current already is not published twice.

    ``repository`` is a folder or an fsspec URL. ``cohort_percent`` of the devices are offered the release; the same
    bundle with another share is a new version. ``monitoring`` replaces the plan in the bundle's manifest.

    The channel's index is written last: whatever happens before, devices see the version before.

    Raises:
        InputError: not a bundle, a share outside 0-100, a channel's name or a repository that cannot be used.
        TransientError: a remote repository did not answer.
    """
    if not 0 <= cohort_percent <= 100:
        raise InputError(f"cohort_percent = {cohort_percent}: 0 to 100 is allowed")
    manifest = read_bundle(bundle.artifact.path).manifest
    files = ReleaseRepository(repository)
    with files.exclusive():
        before = current_document(files, channel)
        plan = monitoring.on_device() if monitoring else manifest.monitoring
        if before and _same(before, bundle, cohort_percent) and before.monitoring == plan:
            return _release(before, repository)
        folder = bundle.artifact.path
        listed = FileEntry(MANIFEST_NAME, (folder / MANIFEST_NAME).stat().st_size, bundle.manifest_digest)
        first, *rest = _upload([listed, *manifest.files], folder, files)
        patches = (_patch_from(before, manifest, folder, files, tuple(rest)),) if before else ()
        document = ReleaseDocument(
            channel=channel,
            version=before.version + 1 if before else 1,
            previous_version=before.version if before else None,
            content_of=None,
            cohort_percent=cohort_percent,
            bundle_digest=bundle.artifact.digest,
            manifest=first,
            files=tuple(rest),
            monitoring=plan,
            patches=tuple(patch for patch in patches if patch),
        )
        return _release(_announce(document, files), repository)


def rollback(repository: str, channel: str, to_version: int | None = None) -> Release:
    """Release an older version's content as a new version, to every device.

    Without ``to_version`` it is the content before the current one.

    Raises:
        InputError: an unknown channel or version, or nothing to go back to.
    """
    files = ReleaseRepository(repository)
    with files.exclusive():
        current = current_document(files, channel)
        if current is None:
            raise InputError(f"release repository {repository}: channel '{channel}' has no release")
        target = _version_before(current, files) if to_version is None else to_version
        if target >= current.version:
            raise InputError(f"version {target} is not older than the current one, {current.version}")
        older = _read_release(files, channel, target)
        document = replace(
            older,
            version=current.version + 1,
            previous_version=current.version,
            content_of=older.content_of or older.version,
            cohort_percent=100,
            patches=(),
        )
        return _release(_announce(document, files), repository)


def current_release(repository: str, channel: str) -> tuple[Release, MonitoringPlan] | None:
    """A channel's current release and its monitoring plan; None before the first."""
    document = current_document(ReleaseRepository(repository), channel)
    if document is None:
        return None
    plan = MonitoringPlan.model_validate({k: getattr(document.monitoring, k) for k in MonitoringPlan.model_fields})
    return _release(document, repository), plan


def _same(before: ReleaseDocument, bundle: Bundle, cohort_percent: int) -> bool:
    return before.manifest.sha256 == bundle.manifest_digest and before.cohort_percent == cohort_percent


def current_document(files: ReleaseRepository, channel: str) -> ReleaseDocument | None:
    """The release that a channel's index points to; None before the first."""
    try:
        content = files.read(index_path(channel))
        if content is None:
            return None
        index = judge_index(content, channel, highest_seen=0)
        return check_release(files.read(release_path(channel, index.version)) or b"", index)
    except IntegrityError as e:
        raise InputError(f"release repository {files.url}: {e}") from e


def _read_release(files: ReleaseRepository, channel: str, version: int) -> ReleaseDocument:
    content = files.read(release_path(channel, version))
    if content is None:
        raise InputError(f"release repository {files.url}: channel '{channel}' has no version {version}")
    try:
        return parse_release(content)
    except IntegrityError as e:
        raise InputError(f"release repository {files.url}: version {version}: {e}") from e


def _version_before(current: ReleaseDocument, files: ReleaseRepository) -> int:
    """The version before the one whose content is current: rolling back twice goes back twice, not to and fro."""
    origin = _read_release(files, current.channel, current.content_of) if current.content_of else current
    if origin.previous_version is None:
        raise InputError(f"channel '{current.channel}': no content is older than that of version {origin.version}")
    return origin.previous_version


def _upload(entries: list[FileEntry], folder: Path, files: ReleaseRepository) -> list[Blob]:
    blobs = []
    for entry in entries:
        packed = transfer_form(folder / entry.path)
        digest = hashlib.sha256(packed).hexdigest()
        blob = Blob(entry.path, entry.bytes, entry.sha256, digest, len(packed))
        # A part of a blob can be there where an upload to a store without atomic writes was cut off.
        if files.size(blob.name) != len(packed):
            files.write(blob.name, packed)
        blobs.append(blob)
    return blobs


def _patch_from(
    before: ReleaseDocument, manifest: Manifest, folder: Path, files: ReleaseRepository, blobs: tuple[Blob, ...]
) -> Patch | None:
    """Patches from the release before, for each changed file that they make cheaper; None where there is none."""
    if manifest.format == Format.MLPACKAGE:
        return None  # iOS apps fetch whole packages: Core ML compiles them on arrival
    old = {blob.path: blob for blob in before.files}
    deltas = []
    kind = patch_kind(manifest.model, None, None)
    for blob in blobs:
        base_blob = old.get(blob.path)
        if base_blob is None or base_blob.sha256 == blob.sha256 or blob.bytes > MAX_PATCHED_BYTES:
            continue
        packed = files.read(base_blob.name)
        if packed is None or hashlib.sha256(packed).hexdigest() != base_blob.blob:
            continue  # a damaged base costs its devices a full download, nothing else
        base, new = unpacked(packed, base_blob.bytes), (folder / blob.path).read_bytes()
        if blob.path == manifest.model:
            kind = patch_kind(blob.path, base, new)
        for built in build_patches(blob.path, base, new):
            if len(built.content) >= blob.blob_bytes:
                continue
            digest = hashlib.sha256(built.content).hexdigest()
            delta = FileDelta(blob.path, blob.path, base_blob.sha256, built.codec, digest, len(built.content))
            if files.size(delta.name) != len(built.content):
                files.write(delta.name, built.content)
            deltas.append(delta)
    unchanged = not any(blob.path == manifest.model and blob.sha256 != _sha(old, blob.path) for blob in blobs)
    return Patch(before.manifest.sha256, kind, tuple(deltas)) if deltas or unchanged else None


def _sha(blobs: Mapping[str, Blob], path: str) -> str | None:
    return blobs[path].sha256 if path in blobs else None


def _announce(document: ReleaseDocument, files: ReleaseRepository) -> ReleaseDocument:
    """Write the release under the first free version, then point the channel's index to it."""
    content = document.to_json()
    while (there := files.read(release_path(document.channel, document.version))) not in (None, content):
        # An attempt that ended before its index was written; releases never change, so its number is spent.
        document = replace(document, version=document.version + 1)
        content = document.to_json()
    if there is None:
        files.write(release_path(document.channel, document.version), content)
    index = ChannelIndex(document.channel, document.version, len(content), hashlib.sha256(content).hexdigest())
    files.write(index_path(document.channel), index.to_json())
    return document


def _release(document: ReleaseDocument, repository: str) -> Release:
    return Release(
        version=document.version,
        channel=document.channel,
        bundle_digest=document.bundle_digest,
        manifest_digest=document.manifest.sha256,
        repository=repository,
        cohort_percent=document.cohort_percent,
        previous_version=document.previous_version,
        content_of=document.content_of,
        download_bytes=document.download_bytes,
    )
