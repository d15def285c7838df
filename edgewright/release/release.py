"""Publishing a bundle as the newest version of its line, and rolling a line back."""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from edgewright.codec.download import transfer_form
from edgewright.errors import InputError
from edgewright.monitor.plan import MonitoringPlan
from edgewright.package import Bundle, read_bundle
from edgewright.release.deltas import patch_from
from edgewright.release.lines import find_line, line_of, list_line, no_release, require_same_model
from edgewright.release.repository import ReleaseRepository
from edgewright.value import Value
from edgewright_runtime.bundle.line import Line
from edgewright_runtime.bundle.manifest import MANIFEST_NAME, FileEntry
from edgewright_runtime.bundle.release import (
    Blob,
    ChannelIndex,
    ReleaseDocument,
    check_release,
    index_path,
    judge_index,
    parse_release,
    release_path,
)
from edgewright_runtime.errors import IntegrityError

__all__ = [
    "Release",
    "announce",
    "current_document",
    "current_release",
    "publish",
    "read_release",
    "rollback",
    "way_back",
]


class Release(Value):
    """A version of a line. ``content_of`` is the version whose content a rollback brought back."""

    version: int
    model: str
    platform: str
    channel: str
    bundle_digest: str
    manifest_digest: str
    repository: str
    cohort_percent: int
    previous_version: int | None
    content_of: int | None = None
    download_bytes: int

    @property
    def line(self) -> str:
        """The id of the line, as devices name it."""
        return Line(self.model, self.platform, self.channel).id


def publish(
    bundle: Bundle,
    repository: str,
    channel: str,
    *,
    cohort_percent: int = 100,
    monitoring: MonitoringPlan | None = None,
) -> Release:
    """Make a bundle the newest version of its model, on its platform, in a channel; what is current already is not
    published twice.

    ``repository`` is a folder or an fsspec URL. ``cohort_percent`` of the devices are offered the release; the same
    bundle with another share is a new version. ``monitoring`` replaces the plan in the bundle's manifest.

    The line's index is written last: whatever happens before, devices see the version before.

    Raises:
        InputError: not a bundle, a share outside 0-100, a channel's name or a repository that cannot be used, or
            another model has this name there.
        TransientError: a remote repository did not answer.
    """
    if not 0 <= cohort_percent <= 100:
        raise InputError(f"cohort_percent = {cohort_percent}: 0 to 100 is allowed")
    manifest = read_bundle(bundle.artifact.path).manifest
    line = line_of(manifest, channel)
    files = ReleaseRepository(repository)
    with files.exclusive():
        before = current_document(files, line.id)
        if before:
            require_same_model(before, manifest, files)
        plan = monitoring.on_device() if monitoring else manifest.monitoring
        folder = bundle.artifact.path
        listed = FileEntry(MANIFEST_NAME, (folder / MANIFEST_NAME).stat().st_size, bundle.manifest_digest)
        unchanged = before and _same(before, bundle, cohort_percent) and before.monitoring == plan
        # A second call, as of a task that is tried again, gives the release of the first.
        if before and unchanged and _mended(before, folder, files):
            list_line(files, line)
            return _release(before, repository)
        first, *rest = _upload([listed, *manifest.files], folder, files)
        if before and before.manifest.sha256 == bundle.manifest_digest:
            # The next step of a rollout: most devices still have what was before the first.
            patches = before.patches
        else:
            # From the release before alone: devices that are further behind download in full.
            patch = patch_from(before, manifest, folder, files, tuple(rest)) if before else None
            patches = (patch,) if patch else ()
        document = ReleaseDocument(
            **asdict(line),
            version=before.version + 1 if before else 1,
            previous_version=before.version if before else None,
            content_of=None,
            cohort_percent=cohort_percent,
            bundle_digest=bundle.artifact.digest,
            manifest=first,
            files=tuple(rest),
            monitoring=plan,
            patches=patches,
        )
        list_line(files, line)
        return _release(announce(document, files), repository)


def rollback(
    repository: str,
    channel: str,
    to_version: int | None = None,
    *,
    model: str | None = None,
    platform: str | None = None,
) -> Release:
    """Release an older version's content as a new version, to every device.

    ``model`` and ``platform`` may be left out where the channel has one line only. Without ``to_version`` it is the
    bundle before the current one, however many steps that one was rolled out in.

    Raises:
        InputError: an unknown or ambiguous line, an unknown version, one whose files are damaged, or nothing to go
            back to.
    """
    files = ReleaseRepository(repository)
    with files.exclusive():
        line = find_line(files, channel, model, platform)
        current = current_document(files, line.id) if line else None
        if line is None or current is None:
            raise InputError(no_release(files, channel, model, platform))
        target = _version_before(current, files) if to_version is None else to_version
        if target >= current.version:
            raise InputError(f"version {target} is not older than the current one, {current.version}")
        older = read_release(files, line.id, target)
        _require_whole(older, files)
        document = replace(
            older,
            version=current.version + 1,
            previous_version=current.version,
            content_of=older.content_of or older.version,
            # Everybody: the older release's share says nothing of who has the one that is to go.
            cohort_percent=100,
            # The older release's patches start from what was before it, which devices no longer have.
            patches=(),
        )
        return _release(announce(document, files), repository)


def current_release(
    repository: str, channel: str, *, model: str | None = None, platform: str | None = None
) -> tuple[Release, MonitoringPlan] | None:
    """A line's current release and its monitoring plan, found as by `rollback`; None before the first."""
    files = ReleaseRepository(repository)
    line = find_line(files, channel, model, platform)
    document = current_document(files, line.id) if line else None
    if document is None:
        return None
    return _release(document, repository), MonitoringPlan(**vars(document.monitoring))


def _same(before: ReleaseDocument, bundle: Bundle, cohort_percent: int) -> bool:
    return before.manifest.sha256 == bundle.manifest_digest and before.cohort_percent == cohort_percent


def current_document(files: ReleaseRepository, line: str) -> ReleaseDocument | None:
    """The release that a line's index points to; None before the first. ``line`` is its id."""
    try:
        content = files.read(index_path(line))
        if content is None:
            return None
        # 0: the workstation has no version of its own that an older one could roll back.
        index = judge_index(content, line, highest_seen=0)
        return check_release(files.read(release_path(line, index.version)) or b"", index)
    except IntegrityError as e:
        raise InputError(f"release repository {files.url}: {e}; `edgewright store repair --repository` mends it") from e


def read_release(files: ReleaseRepository, line: str, version: int) -> ReleaseDocument:
    """One version of a line. Raises `InputError` where it is not there, or damaged."""
    content = files.read(release_path(line, version))
    if content is None:
        raise InputError(f"release repository {files.url}: '{line}' has no version {version}")
    try:
        return parse_release(content)
    except IntegrityError as e:
        raise InputError(f"release repository {files.url}: version {version}: {e}") from e


def _require_whole(release: ReleaseDocument, files: ReleaseRepository) -> None:
    for blob in (release.manifest, *release.files):
        if not files.holds(blob.name, blob.blob):
            raise InputError(
                f"release repository {files.url}: {blob.path} of version {release.version} is damaged or gone; "
                "`edgewright store check --repository` lists what is whole"
            )


def way_back(current: ReleaseDocument, files: ReleaseRepository) -> Iterator[ReleaseDocument]:
    """The releases from the current one back to the last with another bundle: the one that a rollback goes to.

    What a rollback skipped stays skipped: rolling back twice goes back twice, not to and fro.

    Raises:
        InputError: a version on the way is not there, or damaged.
    """
    release = current
    yield release
    # A rollout in steps, or another monitoring plan, is a version with the same bundle: the one that is to go.
    while release.manifest.sha256 == current.manifest.sha256:
        version = release.content_of or release.previous_version
        # Versions only grow: a way that leads forward is damaged, and might never end.
        if version is None or version >= release.version:
            return
        release = read_release(files, current.line, version)
        yield release


def _version_before(current: ReleaseDocument, files: ReleaseRepository) -> int:
    *_, last = way_back(current, files)
    if last.manifest.sha256 == current.manifest.sha256:
        raise InputError(f"'{current.line}': no content is older than that of version {last.version}")
    return last.version


def _upload(entries: list[FileEntry], folder: Path, files: ReleaseRepository) -> list[Blob]:
    blobs = []
    for entry in entries:
        packed = transfer_form(folder / entry.path)
        digest = hashlib.sha256(packed).hexdigest()
        blob = Blob(entry.path, entry.bytes, entry.sha256, digest, len(packed))
        files.keep(blob.name, packed, digest)
        blobs.append(blob)
    return blobs


def _mended(release: ReleaseDocument, folder: Path, files: ReleaseRepository) -> bool:
    """Write anew what of a release's files is damaged or gone: nobody could install it, however often it is published.

    False where that cannot be, since another version of the packer makes other bytes: it takes a new release then.
    """
    for blob in (release.manifest, *release.files):
        if files.holds(blob.name, blob.blob):
            continue
        packed = transfer_form(folder / blob.path)
        if hashlib.sha256(packed).hexdigest() != blob.blob:
            return False
        files.keep(blob.name, packed, blob.blob)
    return True


def announce(document: ReleaseDocument, files: ReleaseRepository) -> ReleaseDocument:
    """Write the release under the first free version, then point the line's index to it."""
    content = document.to_json()
    while (there := files.read(release_path(document.line, document.version))) not in (None, content):
        # An attempt that ended before its index was written; releases never change, so its number is spent.
        document = replace(document, version=document.version + 1)
        content = document.to_json()
    if there is None:
        files.write(release_path(document.line, document.version), content)
    index = ChannelIndex(document.line, document.version, len(content), hashlib.sha256(content).hexdigest())
    # Last: until here devices read the old index, which names a release that is whole.
    files.write(index_path(document.line), index.to_json())
    return document


def _release(document: ReleaseDocument, repository: str) -> Release:
    return Release(
        version=document.version,
        model=document.model,
        platform=document.platform,
        channel=document.channel,
        bundle_digest=document.bundle_digest,
        manifest_digest=document.manifest.sha256,
        repository=repository,
        cohort_percent=document.cohort_percent,
        previous_version=document.previous_version,
        content_of=document.content_of,
        download_bytes=document.download_bytes,
    )
