"""Whether a release repository is whole, mending it, and removing what no release needs: `edgewright store`."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from edgewright.artifact import digest_of
from edgewright.codec.download import transfer_form
from edgewright.errors import InputError
from edgewright.package import read_bundle
from edgewright.release.lines import known_lines
from edgewright.release.release import announce, current_document, read_release, way_back
from edgewright.release.repository import ReleaseRepository
from edgewright.store import Store
from edgewright.upkeep import Findings, size_said
from edgewright_runtime.bundle.line import Line
from edgewright_runtime.bundle.manifest import MANIFEST_NAME
from edgewright_runtime.bundle.release import LINES_PATH, Blob, FileDelta, ReleaseDocument, index_path, lines_json

__all__ = ["check_repository", "collect_repository", "repair_repository"]

_KEPT_VERSIONS = 2  # the current one, and what a device that has just read the index before it still asks for
_LINE = r"([a-z0-9_-]+(?:\.[a-z0-9_-]+){0,2})"
_RELEASE, _INDEX = re.compile(rf"releases/{_LINE}/([0-9]+)\.json"), re.compile(rf"channels/{_LINE}\.json")


class _Content(NamedTuple):
    """What lies in a repository: versions by line, those that can be read, and what is wrong with the others."""

    versions: dict[str, list[int]]
    releases: dict[tuple[str, int], ReleaseDocument]
    damaged: dict[str, str]


def check_repository(url: str) -> Findings:
    """Compare every file with its digest, and every index with its release. Nothing is changed."""
    files = ReleaseRepository(url)
    content, blobs = _content(files), set(files.names("blobs"))
    damaged = dict(content.damaged)
    used: set[str] = set()
    for (line, version), release in sorted(content.releases.items()):
        for blob in _blobs(release):
            used.add(blob.name)
            # A patch that is gone costs its devices a full download, nothing else.
            if isinstance(blob, Blob) and blob.name not in blobs:
                damaged[blob.name] = f"is gone; version {version} of '{line}' needs it"
    for name in sorted(blobs):
        if not files.holds(name, name.rpartition("/")[2]):
            damaged[name] = "is not what its digest says"
    lines = tuple(f"{name}: {fault}" for name, fault in damaged.items())
    unused = len(blobs - used)
    summary = (
        f"{len(content.releases)} releases, {len(blobs)} files, {unused} of them of no release, {len(lines)} damaged"
    )
    return Findings(lines, f"release repository {url}: {summary}")


def repair_repository(url: str, store: Store) -> tuple[list[str], list[str]]:
    """Make damaged files again from the bundles of the home, and point damaged indexes to whole releases.

    Returns what was done, and what could not be: a line each. Damaged patches, and files of no release, are removed.
    """
    files = ReleaseRepository(url)
    repaired, unrepaired = [], []
    with files.exclusive():
        sources, there = _sources(store), files.names("blobs")
        needed = {blob.name: blob for release in _content(files).releases.values() for blob in _blobs(release)}
        for name in sorted({*there, *needed}):
            if files.holds(name, name.rpartition("/")[2]):
                continue
            packed = _made_again(needed.get(name), sources)
            if packed is not None:
                files.write(name, packed)
                repaired.append(f"{name}: made again from a bundle of this home")
            elif isinstance(needed.get(name), Blob):
                unrepaired.append(f"{name}: no bundle of this home has it; publish that model again")
            elif name in there:  # a patch only spares a download, and what no release names is of no use
                files.remove(name)
                repaired.append(f"{name}: removed")
        # Read anew: files that were written or removed above change what is damaged.
        for line in _content(files).versions:
            _repair_index(files, line, repaired, unrepaired)
        if LINES_PATH in _content(files).damaged:
            files.write(LINES_PATH, lines_json(_lines(_content(files))))
            repaired.append(f"{LINES_PATH}: written again")
        for name, fault in _content(files).damaged.items():
            if name.startswith("releases/"):  # no index names it any more, and its number is spent
                files.remove(name)
                repaired.append(f"{name}: removed, it {fault}")
    return repaired, unrepaired


def collect_repository(url: str, limit_bytes: int | None) -> list[str]:
    """Delete the oldest versions until the repository takes at most ``limit_bytes``, and files that no release names.

    The two newest versions of each line stay, the one whose content is current, and the one that a rollback goes to.
    Returns what was done.

    Raises:
        InputError: a release or an index is damaged: what it needs would be deleted with it.
    """
    files = ReleaseRepository(url)
    with files.exclusive():
        content = _content(files)
        if content.damaged:
            name, fault = next(iter(content.damaged.items()))
            raise InputError(
                f"release repository {url}: {name} {fault}; run `edgewright store repair --repository` first"
            )
        sizes = {name: files.size(name) for name in files.names("blobs")}
        releases = dict(content.releases)
        # Files are shared: what one more release frees shows only in the union of what the others need.
        for key in _oldest_first(files, content):
            if limit_bytes is None or sum(sizes[name] for name in _named(releases) & sizes.keys()) <= limit_bytes:
                break
            del releases[key]
        for line, version in content.releases.keys() - releases.keys():
            # Releases before their files: stopped halfway, none names a file that is gone.
            files.remove(f"releases/{line}/{version}.json")
        unused = sizes.keys() - _named(releases)
        for name in unused:
            files.remove(name)
    freed, stays = (sum(sizes[n] for n in names) for names in (unused, sizes.keys() - unused))
    over = limit_bytes is not None and stays > limit_bytes
    return [
        f"removed {len(content.releases) - len(releases)} releases and {len(unused)} files, {size_said(freed)}",
        f"kept {len(releases)} releases, {size_said(stays)}{': the newest of each line, which stay' if over else ''}",
    ]


def _content(files: ReleaseRepository) -> _Content:
    content = _Content({}, {}, {})
    for name in files.names("releases"):
        matched = _RELEASE.fullmatch(name)
        if matched is None:
            continue  # not of our making
        line, version = matched.groups()
        content.versions.setdefault(line, []).append(int(version))
        try:
            content.releases[line, int(version)] = read_release(files, line, int(version))
        except InputError as e:
            content.damaged[name] = f"cannot be read: {e}"
    indexed = (matched.group(1) for name in files.names("channels") if (matched := _INDEX.fullmatch(name)))
    for line in {*content.versions, *indexed}:
        try:
            if current_document(files, line) is None:
                content.damaged[index_path(line)] = "is gone"
        except InputError as e:
            content.damaged[index_path(line)] = f"cannot be used: {e}"
    try:
        listed = set(known_lines(files))
    except InputError as e:
        content.damaged[LINES_PATH] = f"cannot be used: {e}"
    else:
        if missing := _lines(content) - listed:
            content.damaged[LINES_PATH] = f"does not list {'; '.join(sorted(map(str, missing)))}"
    return content


def _lines(content: _Content) -> set[Line]:
    """Every line that has a release, but for those of schema version 1, which are found by their channel alone."""
    return {Line(r.model, r.platform, r.channel) for r in content.releases.values() if r.model}


def _blobs(release: ReleaseDocument) -> Iterator[Blob | FileDelta]:
    yield release.manifest
    yield from release.files
    for patch in release.patches:
        yield from patch.files


def _named(releases: dict[tuple[str, int], ReleaseDocument]) -> set[str]:
    return {blob.name for release in releases.values() for blob in _blobs(release)}


def _oldest_first(files: ReleaseRepository, content: _Content) -> list[tuple[str, int]]:
    """The releases that may go: all but those that `collect_repository` keeps."""
    free = []
    for line, versions in content.versions.items():
        current = current_document(files, line)
        needed: set[int] = set()
        with suppress(InputError):  # an earlier collection left a hole: nothing beyond it can be gone back to
            for release in way_back(current, files) if current else ():
                needed.add(release.version)
        free += [(line, v) for v in sorted(versions)[:-_KEPT_VERSIONS] if v not in needed]
    newest = {line: max(versions) for line, versions in content.versions.items()}
    # Age is the distance to the line's newest: numbers of two lines cannot be compared.
    return sorted(free, key=lambda key: key[1] - newest[key[0]])


def _sources(store: Store) -> dict[str, Path]:
    """Files of the home's whole bundles, by their SHA-256."""
    sources: dict[str, Path] = {}
    for manifest in store.root.glob(f"objects/*/*/*/{MANIFEST_NAME}"):
        try:
            content = read_bundle(manifest.parent)
        except InputError:
            continue  # a damaged one is not a source
        sources[digest_of(manifest)] = manifest
        sources |= {entry.sha256: manifest.parent / entry.path for entry in content.manifest.files}
    return sources


def _made_again(blob: Blob | FileDelta | None, sources: dict[str, Path]) -> bytes | None:
    if not isinstance(blob, Blob) or blob.sha256 not in sources:
        return None
    packed = transfer_form(sources[blob.sha256])
    # Another version of a packer makes other bytes, which are not those that the release names.
    return packed if hashlib.sha256(packed).hexdigest() == blob.blob else None


def _repair_index(files: ReleaseRepository, line: str, repaired: list[str], unrepaired: list[str]) -> None:
    """Where a line's index, or the release that it names, is damaged: announce the newest whole one.

    Devices refuse versions below those they have had, so an older one is announced under a new number.
    """
    content = _content(files)
    if index_path(line) not in content.damaged:
        return
    versions = sorted(content.versions.get(line, []), reverse=True)
    whole = [v for v in versions if (line, v) in content.releases and _is_whole(files, content.releases[line, v])]
    if not whole:
        unrepaired.append(f"{index_path(line)}: no release of '{line}' is whole; publish a model there again")
        return
    release = content.releases[line, whole[0]]
    # The newest that is whole is not the newest number: devices have seen that one, and refuse to go back.
    if whole[0] != versions[0]:
        release = replace(
            release,
            version=versions[0] + 1,
            previous_version=versions[0],
            # A rollback of a rollback names where the content came from, not the version between.
            content_of=release.content_of or release.version,
            cohort_percent=100,
            patches=(),
        )
    announced = announce(release, files)
    repaired.append(f"{index_path(line)}: points to version {announced.version} now")


def _is_whole(files: ReleaseRepository, release: ReleaseDocument) -> bool:
    return all(files.holds(blob.name, blob.blob) for blob in (release.manifest, *release.files))
