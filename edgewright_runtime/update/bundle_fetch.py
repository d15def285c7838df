"""Fetching the bundle of a release: files that are here already, patches, downloads; each checked before it is kept."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from edgewright_runtime.bundle.manifest import MANIFEST_NAME, FileEntry
from edgewright_runtime.bundle.opening import check_file, file_digest, open_bundle
from edgewright_runtime.bundle.release import Blob, FileDelta, ReleaseDocument, check_manifest
from edgewright_runtime.codec.patch import MAX_PATCHED_BYTES, apply_patch, readable_codecs
from edgewright_runtime.disk import discard, read_plain, remove, sync_folder
from edgewright_runtime.errors import EdgeRuntimeError, IntegrityError, ShortageError
from edgewright_runtime.shortage import shortage_or
from edgewright_runtime.update.installation import Installation
from edgewright_runtime.update.transport import Repository, decompressed

__all__ = ["BundleFetch", "is_sound"]


class _Sources(NamedTuple):
    """What spares a download: files by digest, patches by path, and the folder that holds the patches' bases."""

    same: Mapping[str, Path]
    deltas: Mapping[str, FileDelta]
    base: Path | None


class BundleFetch:
    """One fetch, and what it took: ``downloaded_bytes``, the files that were ``patched``, and why patches failed."""

    def __init__(self, repository: Repository, installation: Installation) -> None:
        self._repository = repository
        self._installation = installation
        self.downloaded_bytes = 0
        self.patched: list[str] = []
        self.patch_failures: list[str] = []

    def fetch(self, release: ReleaseDocument, try_bundle: Callable[[Path], None]) -> None:
        """Put a complete, checked and tried bundle in place; what an earlier attempt left is used.

        ``try_bundle`` raises where the bundle in a folder does not work here; nothing is put in place then.
        """
        target = self._installation.bundle_folder(release.manifest.sha256)
        # lexists: a link that leads nowhere stands in the way as well.
        if os.path.lexists(target) and (target.is_symlink() or not is_sound(target, release)):
            discard(target)
        if not target.exists():
            staged = self._installation.staging / release.manifest.sha256
            self._keep_only(staged)
            # The manifest first: it says which files there are, and the release vouches for it by digest.
            self._fetch(release.manifest, staged / MANIFEST_NAME)
            manifest = check_manifest((staged / MANIFEST_NAME).read_bytes(), release)
            self._check_room(release, staged)
            sources = self._sources(release)
            by_path = {blob.path: blob for blob in release.files}
            for entry in manifest.files:
                self._provide(entry, by_path[entry.path], staged, sources)
            # The files are synced; their names must be, too, before the folder has the name that means complete.
            for folder in [staged, *(p for p in staged.rglob("*") if p.is_dir())]:
                sync_folder(folder)
            try_bundle(staged)
            staged.replace(target)
            sync_folder(target.parent)
        # Complete already: a rollback's content, or an attempt that ended before the pointer moved.
        else:
            check_manifest((target / MANIFEST_NAME).read_bytes(), release)
            try_bundle(target)

    def _keep_only(self, staged: Path) -> None:
        for other in self._installation.staging.iterdir():
            # A link in an earlier attempt would lead what is written now elsewhere.
            if other != staged or other.is_symlink() or any(path.is_symlink() for path in other.rglob("*")):
                remove(other)
        if not staged.is_dir():
            remove(staged)
        staged.mkdir(exist_ok=True)

    def _check_room(self, release: ReleaseDocument, staged: Path) -> None:
        needed = sum(blob.bytes - _held_bytes(staged / blob.path, blob.bytes) for blob in release.files)
        free = shutil.disk_usage(self._installation.root).free
        if needed > free:
            raise ShortageError(
                f"no space left: release {release.version} takes {needed / 2**20:.1f} MB more, "
                f"only {free / 2**20:.1f} MB are free"
            )

    def _sources(self, release: ReleaseDocument) -> _Sources:
        """What the current bundle spares: files that stay, and bases of the release's patches."""
        current = self._installation.current()
        if current is None:
            return _Sources({}, {}, None)
        same = {blob.sha256: current.bundle / blob.path for blob in current.release.files}
        patch = next((p for p in release.patches if p.base == current.release.manifest.sha256), None)
        readable = readable_codecs()
        usable = [delta for delta in patch.files if delta.codec in readable] if patch else []
        deltas = {delta.path: delta for delta in sorted(usable, key=lambda d: -d.blob_bytes)}  # the smallest stays
        return _Sources(same, deltas, current.bundle)

    def _provide(self, entry: FileEntry, blob: Blob, staged: Path, sources: _Sources) -> None:
        """A file from the cheapest source that gives it: an earlier attempt, the old bundle, a patch, a download."""
        target = staged / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if _is(target, entry):
            return
        local = sources.same.get(entry.sha256)
        if local is not None and _is(local, entry):
            _write_checked(_blocks_of(local), entry, target)
            return
        delta = sources.deltas.get(entry.path)
        # A patch that is no smaller than the full file only adds a way to fail.
        if delta is not None and sources.base is not None and delta.blob_bytes < blob.blob_bytes:
            try:
                self._patch(delta, entry, sources.base, target)
            except (EdgeRuntimeError, MemoryError) as e:
                # A patch only saves bytes: the full file has the last word.
                self.patch_failures.append(str(e) or type(e).__name__)
            else:
                self.patched.append(entry.path)
                return
        self._fetch(blob, target)

    def _patch(self, delta: FileDelta, entry: FileEntry, folder: Path, target: Path) -> None:
        if entry.bytes > MAX_PATCHED_BYTES:
            raise IntegrityError(f"{entry.path}: too large to be patched")
        try:
            base = read_plain(folder / delta.base_path, MAX_PATCHED_BYTES)
        except OSError as e:
            raise shortage_or(IntegrityError, e, f"{delta.base_path}: cannot be read ({e.strerror})") from e
        # Before the patch is downloaded: of another base nothing useful can come.
        if hashlib.sha256(base).hexdigest() != delta.base_sha256:
            raise IntegrityError(f"{delta.base_path}: not the base that the patch is for")
        packed = b"".join(self._counted(self._repository.blocks(delta.name, delta.blob_bytes)))
        if hashlib.sha256(packed).hexdigest() != delta.blob:
            raise IntegrityError(f"{entry.path}: the patch is not the one that the release names")
        _write_checked([apply_patch(delta.codec, base, packed, entry.bytes)], entry, target)

    def _fetch(self, blob: Blob, target: Path) -> None:
        entry = FileEntry(blob.path, blob.bytes, blob.sha256)
        received = self._counted(self._repository.blocks(blob.name, blob.blob_bytes))
        _write_checked(decompressed(received, blob.path, blob.bytes), entry, target)

    def _counted(self, blocks: Iterable[bytes]) -> Iterable[bytes]:
        for block in blocks:
            self.downloaded_bytes += len(block)
            yield block


def is_sound(folder: Path, release: ReleaseDocument) -> bool:
    """Whether a folder holds the release's bundle, and every file is what its digest says."""
    try:
        open_bundle(folder)
    except IntegrityError:
        return False
    # open_bundle holds the files against the manifest; the manifest itself is what the release names.
    return file_digest(folder / MANIFEST_NAME) == release.manifest.sha256


def _is(path: Path, entry: FileEntry) -> bool:
    try:
        check_file(path, entry)
    except IntegrityError:
        return False
    return True


def _held_bytes(target: Path, at_most: int) -> int:
    """What an earlier attempt left of a file: it is used, or removed before the file is written."""
    sizes = [path.stat().st_size for path in (target, _part_of(target)) if path.is_file()]
    return min(sum(sizes), at_most)


def _part_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.part")


def _blocks_of(path: Path) -> Iterable[bytes]:
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            yield block


def _write_checked(blocks: Iterable[bytes], entry: FileEntry, target: Path) -> None:
    """Write a file under a temporary name, and give it its own only when length and digest are right."""
    digest, size = hashlib.sha256(), 0
    part = _part_of(target)
    # A link in their place would lead the new bytes elsewhere.
    for stale in (part, target):
        remove(stale)
    with part.open("wb") as stream:
        for block in blocks:
            digest.update(block)
            size += len(block)
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())
    if (size, digest.hexdigest()) != (entry.bytes, entry.sha256):
        part.unlink()
        raise IntegrityError(
            f"{entry.path}: {size} bytes with SHA-256 {digest.hexdigest()[:16]}…, "
            f"announced were {entry.bytes} with {entry.sha256[:16]}…"
        )
    part.replace(target)
