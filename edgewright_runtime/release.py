"""What a release repository says, judged: bytes in, verdict out. No file or network is touched here.

A repository is static files:

``channels/CHANNEL.json``           which version is current; replaced atomically, last
``releases/CHANNEL/VERSION.json``   one release, never changed once written
``blobs/sha256/AA/DIGEST``          files as ``.ewz`` or xz, named by the SHA-256 of the compressed bytes

Both documents are ``{"signed": {...}, "signatures": []}``; the list has room for signatures to come.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from edgewright_runtime.errors import IntegrityError, RollbackError
from edgewright_runtime.manifest import MANIFEST_NAME, Manifest
from edgewright_runtime.monitoring import Monitoring, parse_monitoring
from edgewright_runtime.strict_json import MAX_DOCUMENT_BYTES, Fields, canonical_json, parse_object

__all__ = [
    "MAX_INDEX_BYTES",
    "Blob",
    "ChannelIndex",
    "FileDelta",
    "Patch",
    "ReleaseDocument",
    "check_manifest",
    "check_release",
    "in_cohort",
    "index_path",
    "judge_index",
    "release_path",
]

MAX_INDEX_BYTES = 64 << 10
_SCHEMA_VERSION = 1
_MAX_VERSION = 1 << 40
_MAX_FILE_BYTES = 16 << 30
_CHANNEL_CHARACTERS = set("abcdefghijklmnopqrstuvwxyz0123456789-_")


@dataclass(frozen=True)
class Blob:
    """A file of a bundle as it travels: ``blob`` and ``blob_bytes`` are of the compressed form."""

    path: str
    bytes: int
    sha256: str
    blob: str
    blob_bytes: int

    @property
    def name(self) -> str:
        """Where the compressed file lies in the repository."""
        return f"blobs/sha256/{self.blob[:2]}/{self.blob}"


@dataclass(frozen=True)
class ChannelIndex:
    """The current version of a channel, with length and digest of its release document."""

    channel: str
    version: int
    release_bytes: int
    release_sha256: str

    def to_json(self) -> bytes:
        """The document's bytes."""
        return _document("channel", asdict(self))


@dataclass(frozen=True)
class FileDelta:
    """A file of the release made out of one that the device has; its result is the file that the release lists."""

    path: str
    base_path: str
    base_sha256: str
    codec: str
    blob: str
    blob_bytes: int

    @property
    def name(self) -> str:
        """Where the patch lies in the repository; it is compressed by its codec, and by nothing else."""
        return f"blobs/sha256/{self.blob[:2]}/{self.blob}"


@dataclass(frozen=True)
class Patch:
    """How a device that has the bundle with the manifest ``base`` gets this one without a full download.

    ``kind``: ``weight_update`` (same tensors, other values), ``layer_addition`` (other tensors) or
    ``hyperparameter_update`` (the model file stays: thresholds, preprocessing, limits).
    """

    base: str
    kind: str
    files: tuple[FileDelta, ...]


@dataclass(frozen=True)
class ReleaseDocument:
    """One release: a bundle by its manifest's digest, its files, and for whom it is.

    ``content_of`` is the version whose content a rollback brings back, None for new content.
    """

    channel: str
    version: int
    previous_version: int | None
    content_of: int | None
    cohort_percent: int
    bundle_digest: str
    manifest: Blob
    files: tuple[Blob, ...]
    monitoring: Monitoring
    patches: tuple[Patch, ...] = ()

    def to_json(self) -> bytes:
        """The document's bytes."""
        return _document("release", asdict(self))

    @property
    def download_bytes(self) -> int:
        """Bytes of a full transfer."""
        return self.manifest.blob_bytes + sum(blob.blob_bytes for blob in self.files)


def index_path(channel: str) -> str:
    """Where a channel's index lies in the repository."""
    return f"channels/{checked_channel(channel)}.json"


def release_path(channel: str, version: int) -> str:
    """Where a release lies in the repository."""
    return f"releases/{checked_channel(channel)}/{version}.json"


def checked_channel(channel: str) -> str:
    """The channel's name, if it is one that can stand in a path."""
    if not 0 < len(channel) <= 64 or set(channel) - _CHANNEL_CHARACTERS:
        raise IntegrityError(f"channel {channel[:70]!r}: 1 to 64 of a-z, 0-9, - and _ are allowed")
    return channel


def judge_index(content: bytes, channel: str, highest_seen: int) -> ChannelIndex:
    """Read a channel's index.

    Raises:
        IntegrityError: not a valid index of this channel.
        RollbackError: a version below one that this device has already installed.
    """
    f = _signed_part(content, "channel")
    index = ChannelIndex(
        channel=f.text("channel"),
        version=f.whole("version", 1, _MAX_VERSION),
        release_bytes=f.whole("release_bytes"),
        release_sha256=f.sha256("release_sha256"),
    )
    f.done()
    if index.channel != channel:
        raise IntegrityError(f"the index is of channel '{index.channel}', asked for was '{channel}'")
    if index.version < highest_seen:
        raise RollbackError(
            f"channel '{channel}' offers version {index.version}, this device has had {highest_seen}: "
            "refused; a rollback is published as a new version"
        )
    return index


def check_release(content: bytes, index: ChannelIndex) -> ReleaseDocument:
    """Read the release that an index points to.

    Raises:
        IntegrityError: not the bytes that the index announced, or not a valid release of this channel and version.
    """
    if len(content) != index.release_bytes or hashlib.sha256(content).hexdigest() != index.release_sha256:
        raise IntegrityError(f"release {index.version}: not the bytes that the channel's index announced")
    release = parse_release(content)
    if (release.channel, release.version) != (index.channel, index.version):
        raise IntegrityError(
            f"release {release.version} of '{release.channel}' stands where {index.version} of '{index.channel}' should"
        )
    return release


def parse_release(content: bytes) -> ReleaseDocument:
    """Read a release document. Raises `IntegrityError` where it is not one."""
    f = _signed_part(content, "release")
    release = ReleaseDocument(
        channel=checked_channel(f.text("channel")),
        version=f.whole("version", 1, _MAX_VERSION),
        previous_version=f.maybe("previous_version", lambda k: f.whole(k, 1, _MAX_VERSION)),
        content_of=f.maybe("content_of", lambda k: f.whole(k, 1, _MAX_VERSION)),
        cohort_percent=f.whole("cohort_percent", 0, 100),
        bundle_digest=f.sha256("bundle_digest"),
        manifest=_blob(f.take("manifest"), "release.manifest", MAX_DOCUMENT_BYTES),
        files=f.items("files", _blob, 10_000),
        monitoring=parse_monitoring(f.object("monitoring")),
        patches=f.items("patches", _patch, 16),
    )
    f.done()
    return release


def check_manifest(content: bytes, release: ReleaseDocument) -> Manifest:
    """Read the manifest of a release and compare its list of files with the release's.

    Raises:
        IntegrityError: another digest than the release names, an invalid manifest, or other files.
    """
    if hashlib.sha256(content).hexdigest() != release.manifest.sha256:
        raise IntegrityError(f"{MANIFEST_NAME}: its SHA-256 is not the one that release {release.version} names")
    manifest = Manifest.from_json(content)
    listed = {(entry.path, entry.bytes, entry.sha256) for entry in manifest.files}
    if listed != {(blob.path, blob.bytes, blob.sha256) for blob in release.files}:
        raise IntegrityError(f"release {release.version}: its files are not those of its manifest")
    return manifest


def in_cohort(device_id: str, release: ReleaseDocument) -> bool:
    """Whether a release that goes to a share of the devices is for this one; the share differs by release."""
    drawn = hashlib.sha256(f"{release.channel}/{release.version}/{device_id}".encode()).digest()
    return int.from_bytes(drawn[:8], "big") % 100 < release.cohort_percent


def _document(kind: str, content: dict[str, Any]) -> bytes:
    return canonical_json({"signed": {"type": kind, "schema_version": _SCHEMA_VERSION, **content}, "signatures": []})


def _signed_part(content: bytes, kind: str) -> Fields:
    outer = parse_object(content, kind)
    outer.items("signatures", lambda value, _: value, 100)  # none are made yet, so none are judged
    signed = outer.object("signed")
    outer.done()
    signed.text("type", (kind,))
    version = signed.whole("schema_version")
    if version != _SCHEMA_VERSION:
        raise IntegrityError(f"{kind}: schema version {version}, this runtime reads {_SCHEMA_VERSION}; update it")
    return signed


def _blob(value: Any, where: str, at_most: int = _MAX_FILE_BYTES) -> Blob:
    f = Fields(value, where)
    blob = Blob(
        path=f.path("path"),
        bytes=f.whole("bytes", 0, at_most),
        sha256=f.sha256("sha256"),
        blob=f.sha256("blob"),
        blob_bytes=f.whole("blob_bytes", 0, _MAX_FILE_BYTES),
    )
    f.done()
    return blob


def _patch(value: Any, where: str) -> Patch:
    f = Fields(value, where)
    patch = Patch(
        base=f.sha256("base"),
        kind=f.text("kind", ("weight_update", "layer_addition", "hyperparameter_update")),
        files=f.items("files", _delta, 10_000),
    )
    f.done()
    return patch


def _delta(value: Any, where: str) -> FileDelta:
    f = Fields(value, where)
    delta = FileDelta(
        path=f.path("path"),
        base_path=f.path("base_path"),
        base_sha256=f.sha256("base_sha256"),
        codec=f.text("codec"),
        blob=f.sha256("blob"),
        blob_bytes=f.whole("blob_bytes", 0, _MAX_FILE_BYTES),
    )
    f.done()
    return delta
