"""The content-addressed store under ``.edgewright/``: a file is either wholly there under its digest, or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgewright.artifact import Artifact, Format, digest_of, size_of

__all__ = ["Store", "home", "replace_file"]

_MOST_ANCESTORS = 100


def home() -> Path:
    """The folder for everything Edgewright keeps: ``EDGEWRIGHT_HOME``, else ``.edgewright`` here."""
    return Path(os.environ.get("EDGEWRIGHT_HOME", ".edgewright")).absolute()


class Store:
    """Artifacts by digest: ``objects/<first two digits>/<digest>/<file name>``."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or home()

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """A scratch folder on the store's own disk, removed at the end whatever happens."""
        scratch = self.root / "scratch"
        scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            yield Path(folder)

    def put(self, path: Path, form: Format, *, parent: str | None = None, name: str | None = None) -> Artifact:
        """Copy a file or folder into the store; putting the same content twice changes nothing."""
        digest = digest_of(path)
        target = self.root / "objects" / digest[:2] / digest / (name or path.name)
        if not target.exists():
            target.parent.parent.mkdir(parents=True, exist_ok=True)
            with self.workspace() as scratch:
                staged = scratch / digest
                staged.mkdir()
                _copy(path, staged / target.name)
                _sync(staged)
                _place(staged, target)
        if parent is not None and parent != digest:
            replace_file(self.root / "lineage" / digest, parent.encode())
        return Artifact(path=target, format=form, digest=digest, size_bytes=size_of(target), parent=parent)

    def ancestors(self, digest: str) -> list[str]:
        """Digests of what an artifact was made of, nearest first; empty where the store did not make it."""
        found: list[str] = []
        while (record := self.root / "lineage" / digest).is_file() and len(found) < _MOST_ANCESTORS:
            digest = record.read_text()
            found.append(digest)
        return found

    def holds(self, artifact: Artifact) -> bool:
        """Whether the artifact's content is still there, unchanged."""
        return artifact.path.exists() and digest_of(artifact.path) == artifact.digest


def replace_file(target: Path, content: bytes) -> None:
    """Write a file so that a reader, or a power cut, sees the old content or the new, never a part."""
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, staged = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(staged).replace(target)
    except BaseException:
        Path(staged).unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


_sync_folder_flags = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, _sync_folder_flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _place(staged: Path, target: Path) -> None:
    """Move a staged object folder into place; another process may have placed the same content first."""
    try:
        staged.replace(target.parent)
    except OSError:
        if not target.parent.is_dir():
            raise
        # The digest's folder exists: same content under another name, or a concurrent put of the same.
        if not target.exists():
            (staged / target.name).replace(target)
    _sync_folder(target.parent.parent)
