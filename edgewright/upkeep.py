"""Whether the home is whole, mending it, and keeping it within a size: ``edgewright store``.

Everything judged here is a cache: a run computes anew what was removed.
"""

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from edgewright.artifact import digest_of, size_of
from edgewright.scratch import abandoned, remove_abandoned
from edgewright.sealed_json import SEALED_JSON, is_whole
from edgewright.store import DIGEST, Store

__all__ = ["Findings", "check_home", "collect_home", "repair_home", "size_said"]

_NAMED_OBJECT = re.compile(r"objects/[0-9a-f]{2}/([0-9a-f]{64})")
_COLLECTED = ("objects", "transfer", "reports")
_HALF_WRITTEN = re.compile(r"\..+\.[0-9a-f]{8}")
# Where `replace_file` writes: objects and results are of others, whose files may have any name.
_WRITTEN_IN_PLACE = ("", "demo", "exports", "lineage", "reports/*", "tracking", "transfer/*")
_LONGEST_WRITE_S = 3600.0


class Findings(NamedTuple):
    """What a check found: a line for each damaged file, and one in all."""

    damaged: tuple[str, ...]
    summary: str


class _Item(NamedTuple):
    """A folder that may go: its size, and when it was last of use (seconds since the epoch)."""

    path: Path
    size_bytes: int
    used_s: float


def check_home(store: Store) -> Findings:
    """Compare everything that the home keeps by digest with its content. Nothing is changed."""
    damaged = list(_damaged(store))
    folders = abandoned(store.root / "scratch")
    objects = list(store.root.glob("objects/*/*/*"))
    summary = f"{len(objects)} objects, {size_said(sum(_size(path) for path in objects))}, {len(damaged)} damaged files"
    leftovers = f"; {len(folders)} scratch folders of killed runs, which the next run removes" if folders else ""
    return Findings(tuple(f"{path}: {why}" for path, why in damaged), f"home {store.root}: {summary}{leftovers}")


def repair_home(store: Store) -> list[str]:
    """Remove what is damaged, or left of killed runs; returns what was done, a line each."""
    done = []
    for path, why in _damaged(store):
        _delete(path)
        done.append(f"{path}: {why}; removed, the next run that needs it makes it again")
    done += [f"{path}: left by a killed run; removed" for path in remove_abandoned(store.root / "scratch")]
    for path in _half_written(store.root):
        path.unlink()
        done.append(f"{path}: half-written by a killed run; removed")
    return done


def collect_home(store: Store, limit_bytes: int | None) -> list[str]:
    """Remove what was longest of no use until the home's files take at most ``limit_bytes``; returns what was done.

    Objects that a run's record still has to upload stay. What names a removed object goes with it.

    Raises:
        InputError: a run is at work in this home.
    """
    # A run that has just found an object here must not see it go.
    with store.unused():
        remove_abandoned(store.root / "scratch")
        items = sorted(_items(store.root), key=lambda item: item.used_s)
        # Tracking that failed is kept as a record with its bundle's path, and tried again later.
        waiting = _objects_named_in(store.root.glob("tracking/*.json"))
        total = sum(item.size_bytes for item in items)
        removed: list[_Item] = []
        for item in items:
            if limit_bytes is None or total <= limit_bytes:
                break
            if item.path.name not in waiting:
                _delete(item.path)
                removed.append(item)
                total -= item.size_bytes
        _forget_gone_objects(store.root)
    freed = sum(item.size_bytes for item in removed)
    over = limit_bytes is not None and total > limit_bytes
    return [
        f"removed {len(removed)} of {len(items)} folders, {size_said(freed)}",
        f"kept {size_said(total)}{': what waits to be uploaded' if over else ''}",
        *(f"not touched: {name} {size_said(size)}" for name, size in _others(store.root) if size),
    ]


def size_said(size_bytes: int) -> str:
    """Bytes as a person reads them."""
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 1e8 else f"{size_bytes / 1e6:.2f} MB"


def _damaged(store: Store) -> Iterator[tuple[Path, str]]:
    for path in sorted(
        [*store.root.glob("objects/*"), *store.root.glob("objects/*/*"), *store.root.glob("transfer/*")]
    ):
        if not path.is_dir():
            yield path, "is not a folder"
    for path in sorted(store.root.glob("objects/*/*/*")):
        digest = _digest_or_none(path)
        if digest != path.parent.name:
            yield path, f"its SHA-256 is {digest[:16]}…, its name says otherwise" if digest else "cannot be read"
    for path in sorted(store.root.glob("lineage/*")):
        if not DIGEST.fullmatch(_text_of(path)):
            yield path, "holds no digest"
    for path in sorted(path for path in store.root.glob("transfer/*") if path.is_dir()):
        if not _transfer_is_whole(path):
            yield path, "its packed file is not what its note says"
    for path in sorted([*store.root.glob("results/*"), *store.root.glob("exports/*.json")]):
        if path.is_file() and not _result_is_whole(path):
            yield path, "not what was written"


def _digest_or_none(path: Path) -> str | None:
    try:
        return digest_of(path) if path.is_file() or path.is_dir() else None  # a pipe would be waited for
    except OSError:  # a bad sector
        return None


def _size(path: Path) -> int:
    """Bytes on disk; a link that leads nowhere has its own."""
    return size_of(path) if path.exists() else path.lstat().st_size


def _text_of(path: Path) -> str:
    try:
        return path.read_text(errors="replace") if path.is_file() else ""
    except OSError:
        return ""


def _transfer_is_whole(folder: Path) -> bool:
    try:
        noted = json.loads(_text_of(folder / "parts.json"))
        return bool(noted["packed"] == _digest_or_none(folder / "packed"))
    except (ValueError, LookupError, TypeError, RecursionError):
        return False


def _result_is_whole(path: Path) -> bool:
    """Whether a kept result is JSON and, where it is sealed, what its digest says."""
    try:
        record = json.loads(path.read_bytes())
        if isinstance(record, dict) and _inside(record, "metadata", "serializer", "jsonlib") == SEALED_JSON:
            return is_whole(record["result"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False
    return True


def _inside(value: Any, *way: str) -> Any:
    """What lies at the end of a way of keys; None where it ends before."""
    for key in way:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _half_written(root: Path) -> list[Path]:
    """Files that `replace_file` was writing when it was killed."""
    # A younger one may belong to a writer that is at work.
    before = time.time() - _LONGEST_WRITE_S
    dotfiles = (path for place in _WRITTEN_IN_PLACE for path in root.glob(f"{place}/.*".lstrip("/")))
    files = (path for path in dotfiles if _HALF_WRITTEN.fullmatch(path.name) and path.is_file())
    return sorted(path for path in files if path.stat().st_mtime < before)


def _items(root: Path) -> Iterator[_Item]:
    for path in [*root.glob("objects/*/*"), *root.glob("transfer/*"), *root.glob("reports/*")]:
        yield _Item(path, _size(path), path.lstat().st_mtime)


def _others(root: Path) -> Iterator[tuple[str, int]]:
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        if path.is_dir() and path.name not in _COLLECTED:
            yield path.name, size_of(path)


def _objects_named_in(files: Iterator[Path]) -> set[str]:
    return {digest for file in files for digest in _NAMED_OBJECT.findall(_text_of(file))}


def _forget_gone_objects(root: Path) -> None:
    """Kept results and notes that name an object which is gone are of no use."""
    there = {path.name for path in root.glob("objects/*/*")}
    for path in [*root.glob("results/*"), *root.glob("exports/*.json")]:
        if path.is_file() and _objects_named_in(iter([path])) - there:
            path.unlink()


def _delete(path: Path) -> None:
    # rmtree refuses a link, and what it leads to is not ours to remove.
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    if path.parent.parent.parent.name == "objects" and not any(path.parent.iterdir()):
        path.parent.rmdir()
