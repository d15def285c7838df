"""The content-addressed store under ``.edgewright/``: a file is either wholly there under its digest, or not at all.

What a disk did to a file is never kept: content is compared with its digest before it is believed, and replaced where
it is wrong.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from edgewright.artifact import Artifact, Format, digest_of, size_of
from edgewright.errors import InputError
from edgewright.failures import one_line
from edgewright.locks import locked
from edgewright.progress import progress
from edgewright.scratch import scratch_folder
from edgewright.variables import variable
from edgewright_runtime.disk import make_folder, sync_folder

__all__ = ["DIGEST", "Store", "home", "replace_file"]

DIGEST = re.compile(r"[0-9a-f]{64}")

_MAX_ANCESTORS = 100


def home() -> Path:
    """The folder for everything Edgewright keeps: ``EDGEWRIGHT_HOME``, else ``.edgewright`` here."""
    return Path(variable("EDGEWRIGHT_HOME") or ".edgewright").absolute()


class Store:
    """Artifacts by digest: ``objects/<first two digits>/<digest>/<file name>``."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or home()

    def workspace(self) -> AbstractContextManager[Path]:
        """A scratch folder on the store's own disk, removed at the end whatever happens."""
        make_folder(self.root)
        return scratch_folder(self.root / "scratch")

    def put(self, path: Path, form: Format, *, parent: str | None = None, name: str | None = None) -> Artifact:
        """Copy a file or folder into the store; putting the same content twice changes nothing.

        Raises:
            InputError: the file changed while it was copied, or a folder holds links that lead nowhere or in a circle.
        """
        try:
            digest = digest_of(path)
        except OSError as e:
            if e.errno != errno.ELOOP:
                raise
            raise InputError(f"{e.filename}: {e.strerror}; put the files themselves there") from e
        target = self.root / "objects" / digest[:2] / digest / (name or path.name)
        # What is there is read in full: a name alone would keep a rotten byte for ever.
        if not _is_whole(target, digest):
            with self.workspace() as scratch:
                staged = scratch / target.name
                _copy(path, staged)
                # Of the copy: another process may have written the source between the two readings.
                if digest_of(staged) != digest:
                    raise InputError(f"{path} changed while it was copied; try again when nobody writes it")
                # Before it has its name: after a power cut that would stand for content which never reached the disk.
                _sync(staged)
                self._place(staged, target, digest)
        self._mark_used(target)
        if parent is not None and parent != digest:
            replace_file(self.root / "lineage" / digest, parent.encode())
        return Artifact(path=target, format=form, digest=digest, size_bytes=size_of(target), parent=parent)

    def ancestors(self, digest: str) -> list[str]:
        """Digests of what an artifact was made of, nearest first; empty where the store did not make it."""
        digests: list[str] = []
        # Bounded: a rotten record may name a digest that leads back to it.
        while (record := self.root / "lineage" / digest).is_file() and len(digests) < _MAX_ANCESTORS:
            digest = record.read_bytes().decode(errors="replace")
            if not DIGEST.fullmatch(digest):
                progress.note(f"{record}: holds no digest, a disk error perhaps; what came before is not known")
                break
            digests.append(digest)
        return digests

    def holds(self, artifact: Artifact) -> bool:
        """Whether the artifact's content is still there, unchanged."""
        self._mark_used(artifact.path)
        return _is_whole(artifact.path, artifact.digest)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """A run is at work: nothing that it has found here is removed meanwhile."""
        with locked(self.root / ".in-use", shared=True):
            yield

    @contextmanager
    def unused(self) -> Iterator[None]:
        """No run is at work, and none begins meanwhile.

        Raises:
            InputError: one is.
        """
        with locked(self.root / ".in-use", wait=False) as alone:
            if not alone:
                raise InputError(f"a run is at work in {self.root}; try again when it has ended")
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else moves objects of this store in or out meanwhile; another process waits."""
        with locked(self.root / ".lock"):
            yield

    def _place(self, staged: Path, target: Path, digest: str) -> None:
        """Move staged content to its name; another process may have placed the same, or a disk spoilt what is there."""
        with self.alone():
            if _is_whole(target, digest):
                return
            # What is moved beside the staged content goes with the scratch folder.
            for folder in (target.parent.parent, target.parent):
                if os.path.lexists(folder) and not folder.is_dir():
                    progress.note(f"{folder}: not the folder of its name, a disk error perhaps; replaced")
                    folder.replace(staged.with_name(uuid4().hex))
            make_folder(target.parent)
            if os.path.lexists(target):
                progress.note(f"{target}: not the content of its name, a disk error perhaps; replaced")
                target.replace(staged.with_name(uuid4().hex))
            staged.replace(target)
            sync_folder(target.parent)

    def _mark_used(self, path: Path) -> None:
        # When an object was last of use: `gc` removes the others first.
        with suppress(OSError):  # gone, or a home that can only be read
            os.utime(path.parent)


def replace_file(target: Path, content: bytes) -> None:
    """Write a file so that a reader, or a power cut, sees the old content or the new, never a part.

    Its mode is what the umask leaves of 0666, as of any file that is made: others may have to read it.
    """
    make_folder(target.parent)
    # In the same folder, since a rename is atomic within one file system only.
    staged = target.with_name(f".{target.name}.{uuid4().hex[:8]}")
    try:
        # Not tempfile: its files have mode 0600 whatever the umask.
        with staged.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        staged.replace(target)
    # Ctrl-C as well: nothing half-written is left beside the file.
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def _is_whole(path: Path, digest: str) -> bool:
    try:
        return (path.is_file() or path.is_dir()) and digest_of(path) == digest  # a pipe would be waited for
    except OSError:  # what the disk no longer gives is not whole either
        return False


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        faults: list[OSError] = []

        def copy(file: str, to: str) -> str:
            try:
                return shutil.copy2(file, to)
            except OSError as e:
                faults.append(e)
                raise

        try:
            shutil.copytree(source, target, copy_function=copy)
        except shutil.Error as e:  # of a list of (from, to, why), all as text
            # A full disk is no fault of the folder's.
            full = next((fault for fault in faults if fault.errno in {errno.ENOSPC, errno.EDQUOT}), None)
            if full is not None:
                raise full from e
            name, _, why = e.args[0][0]
            raise InputError(f"{name} cannot be copied: {one_line(why)}; the folder needs plain files alone") from e
    else:
        shutil.copyfile(source, target)


def _sync(path: Path) -> None:
    # Folders too: their entries are content, and the outermost comes last.
    for part in [*path.rglob("*"), path]:
        descriptor = os.open(part, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
