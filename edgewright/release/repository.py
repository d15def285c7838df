"""The files of a release repository, on local disk or at any fsspec URL."""

import errno
import fcntl
import hashlib
import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from edgewright.errors import EdgewrightError, InputError, TransientError
from edgewright.failures import one_line
from edgewright.progress import progress
from edgewright.store import replace_file
from edgewright_runtime.disk import make_folder

__all__ = ["ReleaseRepository"]

_CLAIM = "publishing.lock"


class ReleaseRepository:
    """Whole files, read and written below a root.

    On local disk each write is atomic and publishers wait for one another. Object stores replace a file in one step
    too; there a publisher claims the repository by a file that only one can make, and a second is refused.
    """

    def __init__(self, url: str) -> None:
        try:
            self._fs: Any
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as e:
            raise InputError(f"release repository '{url}': {e}; give a folder or an fsspec URL such as s3://…") from e
        self.url = url
        self._is_local = isinstance(self._fs, LocalFileSystem)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """One publisher at a time: on local disk a second waits, elsewhere it is refused.

        Raises:
            TransientError: another publisher is at work in a repository that is not on local disk.
        """
        if not self._is_local:
            with self._claimed():
                yield
            return
        with self._explained("locked"):
            make_folder(Path(self._root))
            # Opened inside, held outside of `_explained`: an OSError of the publisher's own work is not the lock's.
            lock = (Path(self._root) / ".lock").open("ab")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _claimed(self) -> Iterator[None]:
        claim = json.dumps({"owner": uuid.uuid4().hex, "since_s": int(time.time())}).encode()
        path = self._path(_CLAIM)
        with self._explained("claimed"):
            self._fs.makedirs(self._root, exist_ok=True)
            try:
                # In one step where the store can (S3 and Google: a conditional request); fsspec looks first elsewhere.
                self._fs.pipe_file(path, claim, mode="create")
            except FileExistsError as e:
                raise TransientError(self._taken(path)) from e
            if self._fs.cat_file(path) != claim:  # a store whose creation is not one step: the last writer has it
                raise TransientError(self._taken(path))
        try:
            yield
        finally:
            with self._explained("released"):
                self._fs.rm_file(path)

    def _taken(self, path: str) -> str:
        try:
            seconds = max(0.0, time.time() - json.loads(self._fs.cat_file(path))["since_s"])  # clocks may differ
            since = f" since {seconds:.0f} s"
        except (FileNotFoundError, ValueError, KeyError, TypeError):  # released just now, or not written by us
            since = ""
        return (
            f"release repository {self.url}: another publisher is at work{since}; try again later, "
            f"or delete {_CLAIM} there if that one was killed"
        )

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is no such file."""
        with self._explained("read"):
            if self._is_local and Path(self._path(name)).is_fifo():  # it would be waited for
                raise OSError(errno.EINVAL, "a pipe, not a file", name)
            try:
                return bytes(self._fs.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

    def holds(self, name: str, sha256: str) -> bool:
        """Whether a file is there, and is what its digest says: one of the right length may still be rotten."""
        try:
            content = self.read(name)
        except InputError:  # on local disk: a bad sector, or no file at all
            return False
        return content is not None and hashlib.sha256(content).hexdigest() == sha256

    def keep(self, name: str, content: bytes, sha256: str) -> None:
        """Write a file that is named by its content, unless it is there; one that is damaged is replaced, and told."""
        # Blobs are shared by channels and versions: most are there already.
        if self.holds(name, sha256):
            return
        with self._explained("read"):
            is_there = self._fs.lexists(self._path(name)) if self._is_local else self._fs.exists(self._path(name))
        if is_there:
            progress.note(f"release repository {self.url}: {name} was damaged or cut off; replaced")
        self.write(name, content)

    def names(self, below: str) -> list[str]:
        """The names of all files below a folder of the repository, sorted; half-written ones are left out."""
        with self._explained("listed"):
            # Object stores' clients keep listings, in which another publisher's files are missing.
            self._fs.invalidate_cache()
            paths = self._fs.find(self._path(below))
        start = len(self._path(""))
        # find() gives absolute paths, of the root's own form.
        names = (str(path)[start:] for path in paths)
        return sorted(name for name in names if not name.rpartition("/")[2].startswith("."))

    def size(self, name: str) -> int:
        """A file's length."""
        with self._explained("read"):
            return int(self._fs.info(self._path(name))["size"])

    def remove(self, name: str) -> None:
        """Delete a file."""
        with self._explained("changed"):
            self._fs.rm_file(self._path(name))

    def write(self, name: str, content: bytes) -> None:
        """Write a file; a reader sees the old content or the new."""
        with self._explained("written"):
            if self._is_local:
                replace_file(Path(self._path(name)), content)
                return
            self._fs.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(self._path(name), content)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except EdgewrightError:
            raise
        except Exception as e:
            if self._is_local and not isinstance(e, OSError):
                raise
            # Each store's client has errors of its own kind. A local disk fails again in the same way; a network may
            # not, and tasks retry what is transient.
            kind = InputError if self._is_local else TransientError
            raise kind(f"release repository {self.url}: cannot be {what}: {one_line(e)}") from e
