"""The files of a release repository, on local disk or at any fsspec URL."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from edgewright.errors import InputError, TransientError
from edgewright.store import replace_file

__all__ = ["ReleaseRepository"]


class ReleaseRepository:
    """Reads and writes whole files below a root.

    On local disk each write is atomic and publishers wait for one another. Object stores replace a file in one step
    too, but offer no lock: let one publisher at a time write to a channel there.
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
        """One publisher at a time; on local disk only."""
        if not self._is_local:
            yield
            return
        with self._explained("locked"):
            Path(self._root).mkdir(parents=True, exist_ok=True)
            lock = (Path(self._root) / ".lock").open("ab")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is no such file."""
        with self._explained("read"):
            try:
                return bytes(self._fs.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

    def size(self, name: str) -> int | None:
        """A file's length; None where there is no such file."""
        with self._explained("read"):
            try:
                return int(self._fs.info(self._path(name))["size"])
            except FileNotFoundError:
                return None

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
        except OSError as e:
            kind = InputError if self._is_local else TransientError
            raise kind(f"release repository {self.url}: cannot be {what}: {e}") from e
