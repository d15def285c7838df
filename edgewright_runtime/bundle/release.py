"""What a release repository says, judged: bytes in, verdict out. No file or network is touched here.

One model on one platform in one channel is a line (`Line`), with versions of its own. A repository is static files:

``lines.json``                      the lines there are: how a device finds the only one for it
``channels/LINE.json``              which version is current; replaced atomically, last
``releases/LINE/VERSION.json``      one release, never changed once written
``blobs/sha256/AA/DIGEST``          files as ``.ewz`` or xz, named by the SHA-256 of the compressed bytes

All documents are ``{"signed": {...}, "signatures": []}``; the list has room for signatures to come. Those of schema
version 1 knew channels only: their line is the channel's name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Optional

from edgewright_runtime.bundle.line import Line, checked_channel, checked_line, checked_model, checked_platform
from edgewright_runtime.bundle.manifest import MANIFEST_NAME, Manifest
from edgewright_runtime.bundle.monitoring import Monitoring
from edgewright_runtime.errors import IntegrityError, RollbackError
from edgewright_runtime.strict_json import MAX_DOCUMENT_BYTES, Fields, canonical_json, fault, parse_object
from edgewright_runtime.wire import read, rule

__all__ = [
    "LINES_PATH",
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
    "lines_json",
    "parse_lines",
    "release_path",
]

LINES_PATH = "lines.json"
MAX_INDEX_BYTES = 64 << 10
_SCHEMA_VERSION = 2
_SINCE_SCHEMA_2 = {"model": "", "platform": ""}  # and what an older release has in their place
_MAX_VERSION = 1 << 40
_MAX_FILE_BYTES = 16 << 30
_MAX_LINES = 10_000
_MAX_SIGNATURES = 100


@dataclass(frozen=True)
class Blob:
    """A file of a bundle as it travels: ``blob`` and ``blob_bytes`` are of the compressed form."""

    path: str = field(metadata=rule(form="path"))
    bytes: int = field(metadata=rule(le=_MAX_FILE_BYTES))
    sha256: str = field(metadata=rule(form="sha256"))
    blob: str = field(metadata=rule(form="sha256"))
    blob_bytes: int = field(metadata=rule(le=_MAX_FILE_BYTES))

    @property
    def name(self) -> str:
        """Where the compressed file lies in the repository."""
        return _blob_path(self.blob)


@dataclass(frozen=True)
class ChannelIndex:
    """The current version of a line, with length and digest of its release document."""

    line: str
    version: int = field(metadata=rule(ge=1, le=_MAX_VERSION))
    release_bytes: int
    release_sha256: str = field(metadata=rule(form="sha256"))

    def to_json(self) -> bytes:
        """The document's bytes."""
        return _document("channel", asdict(self))


@dataclass(frozen=True)
class FileDelta:
    """A file of the release made out of one that the device has; its result is the file that the release lists."""

    path: str = field(metadata=rule(form="path"))
    base_path: str = field(metadata=rule(form="path"))
    base_sha256: str = field(metadata=rule(form="sha256"))
    codec: str
    blob: str = field(metadata=rule(form="sha256"))
    blob_bytes: int = field(metadata=rule(le=_MAX_FILE_BYTES))

    @property
    def name(self) -> str:
        """Where the patch lies in the repository; it is compressed by its codec, and by nothing else."""
        return _blob_path(self.blob)


@dataclass(frozen=True)
class Patch:
    """How a device that has the bundle with the manifest ``base`` gets this one without a full download.

    ``kind``: ``weight_update`` (same tensors, other values), ``layer_addition`` (other tensors) or
    ``hyperparameter_update`` (the model file stays: thresholds, preprocessing, limits).
    """

    base: str = field(metadata=rule(form="sha256"))
    kind: str = field(metadata=rule(allowed=("weight_update", "layer_addition", "hyperparameter_update")))
    files: tuple[FileDelta, ...] = field(metadata=rule(max_length=10_000))


@dataclass(frozen=True)
class ReleaseDocument:
    """One release: a bundle by its manifest's digest, its files, and for whom it is.

    ``content_of`` is the version whose content a rollback brings back, None for new content.
    """

    model: str
    platform: str
    channel: str = field(metadata=rule(form=checked_channel))
    version: int = field(metadata=rule(ge=1, le=_MAX_VERSION))
    previous_version: Optional[int] = field(metadata=rule(ge=1, le=_MAX_VERSION))
    content_of: Optional[int] = field(metadata=rule(ge=1, le=_MAX_VERSION))
    cohort_percent: int = field(metadata=rule(le=100))
    bundle_digest: str = field(metadata=rule(form="sha256"))
    manifest: Blob
    files: tuple[Blob, ...] = field(metadata=rule(max_length=10_000))
    monitoring: Monitoring
    patches: tuple[Patch, ...] = field(default=(), metadata=rule(max_length=16))

    def to_json(self) -> bytes:
        """The document's bytes."""
        return _document("release", asdict(self))

    @property
    def line(self) -> str:
        """The id of the line that this is a version of."""
        return Line(self.model, self.platform, self.channel).id

    @property
    def name(self) -> str:
        """What a device calls it."""
        return f"{self.line}.{self.version}"

    @property
    def download_bytes(self) -> int:
        """Bytes of a full transfer."""
        return self.manifest.blob_bytes + sum(blob.blob_bytes for blob in self.files)


@dataclass(frozen=True)
class _Lines:
    """The document that lists a repository's lines."""

    lines: tuple[Line, ...] = field(metadata=rule(max_length=_MAX_LINES))


def index_path(line: str) -> str:
    """Where a line's index lies in the repository."""
    return f"channels/{checked_line(line)}.json"


def release_path(line: str, version: int) -> str:
    """Where a release lies in the repository."""
    return f"releases/{checked_line(line)}/{version}.json"


def lines_json(lines: Iterable[Line]) -> bytes:
    """The document that lists a repository's lines."""
    listed = sorted((asdict(line) for line in set(lines)), key=lambda line: tuple(line.values()))
    return _document("lines", {"lines": listed})


def parse_lines(content: bytes) -> tuple[Line, ...]:
    """Read a repository's list of lines. Raises `IntegrityError` where it is not one."""
    return read(_Lines, _signed_part(content, "lines")[0], "lines").lines


def judge_index(content: bytes, line: str, highest_seen: int) -> ChannelIndex:
    """Read a line's index.

    Raises:
        IntegrityError: not a valid index of this line.
        RollbackError: a version below one that this device has already installed.
    """
    signed, schema = _signed_part(content, "channel")
    # An index of schema 1 names its channel, which was the line's id then.
    if schema == 1 and "line" not in signed:
        signed["line"] = signed.pop("channel", None)
    index = read(ChannelIndex, signed, "channel")
    if index.line != line:
        raise IntegrityError(f"the index is of '{index.line[:200]}', asked for was '{line}'")
    # Equal is the ordinary poll, and the way to repair what is installed.
    if index.version < highest_seen:
        raise RollbackError(
            f"'{line}' offers version {index.version}, this device has had {highest_seen}: "
            "refused; a rollback is published as a new version"
        )
    return index


def check_release(content: bytes, index: ChannelIndex) -> ReleaseDocument:
    """Read the release that an index points to.

    Raises:
        IntegrityError: not the bytes that the index announced, or not a valid release of this line and version.
    """
    # The index vouches for the release: what it announced is all that is parsed.
    if len(content) != index.release_bytes or hashlib.sha256(content).hexdigest() != index.release_sha256:
        raise IntegrityError(f"release {index.version}: not the bytes that the line's index announced")
    release = parse_release(content)
    if (release.line, release.version) != (index.line, index.version):
        raise IntegrityError(
            f"release {release.version} of '{release.line[:200]}' stands where {index.version} of '{index.line}' should"
        )
    return release


def parse_release(content: bytes) -> ReleaseDocument:
    """Read a release document. Raises `IntegrityError` where it is not one."""
    signed, schema = _signed_part(content, "release")
    if schema == 1:
        if not signed.keys().isdisjoint(_SINCE_SCHEMA_2):
            raise IntegrityError(f"release: unknown keys {sorted(signed.keys() & _SINCE_SCHEMA_2.keys())}")
        signed.update(_SINCE_SCHEMA_2)
    release = read(ReleaseDocument, signed, "release")
    # Those of schema 1 have neither; for them both are empty.
    if schema > 1:
        checked_model(release.model)
        checked_platform(release.platform)
    if release.manifest.bytes > MAX_DOCUMENT_BYTES:
        raise IntegrityError(f"release: a manifest of {release.manifest.bytes} bytes, at most {MAX_DOCUMENT_BYTES}")
    return release


def check_manifest(content: bytes, release: ReleaseDocument) -> Manifest:
    """Read the manifest of a release and compare its model, platform and list of files with the release's.

    Raises:
        IntegrityError: another digest than the release names, an invalid manifest, another model, or other files.
    """
    if hashlib.sha256(content).hexdigest() != release.manifest.sha256:
        raise IntegrityError(f"{MANIFEST_NAME}: its SHA-256 is not the one that release {release.version} names")
    manifest = Manifest.from_json(content)
    if release.model and (manifest.name, manifest.platform) != (release.model, release.platform):
        raise IntegrityError(
            f"release {release.name}: its bundle is of '{manifest.name[:200]}' for {manifest.platform}, another model"
        )
    # As sets: both lists may be in any order, and neither holds a path twice.
    listed = {(entry.path, entry.bytes, entry.sha256) for entry in manifest.files}
    if listed != {(blob.path, blob.bytes, blob.sha256) for blob in release.files}:
        raise IntegrityError(f"release {release.version}: its files are not those of its manifest")
    return manifest


def in_cohort(device_id: str, release: ReleaseDocument) -> bool:
    """Whether a release that goes to a share of the devices is for this one; the share differs by release."""
    # The version is in the draw, so that it is not always the same devices that go first.
    drawn = hashlib.sha256(f"{release.line}/{release.version}/{device_id}".encode()).digest()
    return int.from_bytes(drawn[:8], "big") % 100 < release.cohort_percent


def _blob_path(digest: str) -> str:
    return f"blobs/sha256/{digest[:2]}/{digest}"


def _document(kind: str, content: dict[str, Any]) -> bytes:
    return canonical_json({"signed": {"type": kind, "schema_version": _SCHEMA_VERSION, **content}, "signatures": []})


def _signed_part(content: bytes, kind: str) -> tuple[dict[str, Any], int]:
    """The signed content, and the version of its schema."""
    outer = parse_object(content, kind)
    signatures = outer.take("signatures")  # none are made yet, so none are judged
    if not isinstance(signatures, list) or len(signatures) > _MAX_SIGNATURES:
        raise fault(signatures, kind, "signatures", f"a list of at most {_MAX_SIGNATURES}")
    signed = Fields(outer.take("signed"), f"{kind}.signed")
    outer.done()
    signed.text("type", (kind,))
    version = signed.whole("schema_version")
    if not 1 <= version <= _SCHEMA_VERSION:
        raise IntegrityError(f"{kind}: schema version {version}, this runtime reads 1 to {_SCHEMA_VERSION}; update it")
    return signed.rest(), version
