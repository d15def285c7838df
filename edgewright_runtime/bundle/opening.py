"""A bundle's folder on disk: its manifest, and whether its files are what the manifest says."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgewright_runtime.bundle.manifest import MANIFEST_NAME, FileEntry, Manifest
from edgewright_runtime.disk import read_plain
from edgewright_runtime.errors import IntegrityError
from edgewright_runtime.shortage import shortage_or
from edgewright_runtime.strict_json import MAX_DOCUMENT_BYTES

__all__ = ["check_file", "file_digest", "open_bundle", "read_manifest"]

_BLOCK_BYTES = 1 << 20


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle, without a look at its files.

    Raises:
        IntegrityError: no manifest there, or not a valid one.
        ShortageError: no file can be opened just now.
    """
    path = folder / MANIFEST_NAME
    try:
        content = read_plain(path, MAX_DOCUMENT_BYTES)
    except OSError as e:
        message = f"{folder} is not a bundle: {MANIFEST_NAME} cannot be read ({e.strerror})"
        raise shortage_or(IntegrityError, e, message) from e
    return Manifest.from_json(content)


def open_bundle(folder: Path) -> Manifest:
    """The manifest of a bundle all of whose files have the length and digest it lists.

    Raises:
        IntegrityError: names the first file that is missing, longer, shorter, changed or unreadable.
        ShortageError: no file can be opened just now.
    """
    manifest = read_manifest(folder)
    for entry in manifest.files:
        check_file(folder / entry.path, entry)
    return manifest


def check_file(path: Path, entry: FileEntry) -> None:
    """Raise `IntegrityError` where a file is not the one that the entry describes, `ShortageError` where no file can be
    opened just now.
    """
    # is_file() follows a link, which may lead out of the bundle.
    if path.is_symlink() or not path.is_file():
        raise IntegrityError(f"{entry.path}: missing from the bundle, or not a plain file")
    # The length first: it costs nothing, a digest reads the whole file.
    size = path.stat().st_size
    if size != entry.bytes:
        raise IntegrityError(f"{entry.path}: {size} bytes, the manifest says {entry.bytes}")
    try:
        digest = file_digest(path)
    except OSError as e:
        raise shortage_or(IntegrityError, e, f"{entry.path}: cannot be read ({e.strerror})") from e
    if digest != entry.sha256:
        raise IntegrityError(f"{entry.path}: SHA-256 {digest}, the manifest says {entry.sha256}")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, lowercase hex."""
    content = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            content.update(block)
    return content.hexdigest()
