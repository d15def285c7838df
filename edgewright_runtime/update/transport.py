"""Fetching files of a release repository: from a folder (``file://`` or a path) or a web server (``http(s)://``)."""

from __future__ import annotations

import lzma
import urllib.parse
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from edgewright_runtime.errors import IntegrityError, TransportError

if TYPE_CHECKING:
    from edgewright_runtime.web import Reply

__all__ = ["Repository", "decompressed"]

_BLOCK_BYTES = 1 << 16
_EWZ_OVERHEAD_BYTES = 64
_DECODER_MEMORY_BYTES = 128 << 20  # xz -6 needs 9 MB to decode; more is a hostile header
# A server that sends a byte a second would never time out by its socket alone.
_MIN_BYTES_PER_S = 1000
_GRACE_S = 30.0


class Repository:
    """A release repository, by the URL or path of its root.

    A server's redirections are followed within its own origin and to ``redirect_hosts``.
    """

    def __init__(self, url: str, timeout_s: float = 20.0, *, redirect_hosts: Collection[str] = ()) -> None:
        self.url, self._redirect_hosts = url.rstrip("/"), redirect_hosts
        self._timeout_s = timeout_s
        try:
            kind = urllib.parse.urlsplit(url).scheme
        except ValueError as e:
            raise TransportError(f"{url}: no address of a repository: {e}") from e
        if kind in ("", "file"):
            self._folder: Path | None = _folder_of(url) if kind else Path(url)
        elif kind in ("http", "https"):
            self._folder = None
        else:
            raise TransportError(f"{url}: a device reads file, http and https; '{kind}' is none of them")

    def read(self, name: str, at_most: int) -> bytes:
        """A whole small file.

        Raises:
            TransportError: not there, no answer, or too slow.
            IntegrityError: longer than ``at_most`` bytes.
        """
        return b"".join(self.blocks(name, at_most))

    def blocks(self, name: str, at_most: int) -> Iterator[bytes]:
        """A file in blocks; the same errors as `read`, raised as soon as they are known."""
        received = 0
        with closing(self._open(name)) as stream:
            while True:
                try:
                    block = stream.read1(_BLOCK_BYTES)  # read() would wait for a whole block
                except OSError as e:
                    raise TransportError(f"{self.url}/{name}: broke off after {received} bytes: {e}") from e
                if not block:
                    return
                received += len(block)
                # Counted before it is handed on: a server that sends without end is cut off at its announced size.
                if received > at_most:
                    raise IntegrityError(f"{name}: longer than the {at_most} bytes that were announced")
                yield block

    def _open(self, name: str) -> BufferedReader | Reply:
        try:
            if self._folder is not None:
                return _opened_file(self._folder / name)
            # Imported here: http and TLS take as long as all that a device needs to answer.
            from edgewright_runtime.web import opened

            return opened(
                f"{self.url}/{urllib.parse.quote(name)}",
                self._timeout_s,
                grace_s=_GRACE_S,
                bytes_per_s=_MIN_BYTES_PER_S,
                redirect_hosts=self._redirect_hosts,
            )
        except (OSError, ValueError) as e:
            raise TransportError(f"{self.url}/{name}: cannot be read: {getattr(e, 'reason', None) or e}") from e


def _folder_of(url: str) -> Path:
    from urllib.request import url2pathname

    return Path(url2pathname(urllib.parse.urlsplit(url).path))


def _opened_file(path: Path) -> BufferedReader:
    if path.is_fifo():  # it would be waited for
        raise OSError("a pipe, not a file")
    return path.open("rb")


def decompressed(blocks: Iterable[bytes], name: str, at_most: int) -> Iterator[bytes]:
    """Unpack what a release sends for a file: an xz stream or an ``.ewz``, told apart by their first bytes.

    An xz stream in bounded steps: never more memory than a block. An ``.ewz`` as a whole: some twenty times
    ``at_most`` and 250 MB. Never more output than announced.

    Raises:
        IntegrityError: neither of them, broken off, trailing bytes, or more than ``at_most`` bytes unpacked.
    """
    # Imported here: a device that only answers needs no decoder, and it takes a third of all import time.
    from edgewright_runtime.codec.ewz import MAGIC, rebuild

    received, head = iter(blocks), b""
    # A first block may be shorter than the magic: read1 gives what has come.
    while len(head) < len(MAGIC) and (block := next(received, b"")):
        head += block
    if head.startswith(MAGIC):
        yield rebuild(_at_most(head, received, name, at_most + _EWZ_OVERHEAD_BYTES), limit_bytes=at_most)
    else:
        yield from _from_xz(chain([head], received), name, at_most)


def _at_most(head: bytes, blocks: Iterator[bytes], name: str, limit: int) -> bytes:
    whole = bytearray(head)
    for block in blocks:
        whole += block
        if len(whole) > limit:
            raise IntegrityError(f"{name}: its .ewz is larger than the file itself")
    return bytes(whole)


def _from_xz(blocks: Iterable[bytes], name: str, at_most: int) -> Iterator[bytes]:
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_DECODER_MEMORY_BYTES)
    unpacked = 0
    try:
        for block in blocks:
            # A block may unpack to a thousand times its size: it is drained in steps.
            piece = unpacker.decompress(block, max_length=_BLOCK_BYTES)
            while True:
                unpacked += len(piece)
                if unpacked > at_most:
                    raise IntegrityError(f"{name}: unpacks to more than the {at_most} bytes that were announced")
                if piece:
                    yield piece
                if unpacker.eof or unpacker.needs_input:
                    break
                piece = unpacker.decompress(b"", max_length=_BLOCK_BYTES)
    except (lzma.LZMAError, EOFError) as e:
        raise IntegrityError(f"{name}: not a valid xz stream: {e}") from e
    # decompress() is silent about a stream that just stops, and keeps what follows its end.
    if not unpacker.eof or unpacker.unused_data:
        raise IntegrityError(f"{name}: the xz stream is broken off or followed by something else")
