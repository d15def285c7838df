"""Arrays in ``.npy`` and ``.npz`` files of others: nothing is unpickled, and no memory is taken on a header's word.

The format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from edgewright_runtime.disk import check_plain

__all__ = ["MAGIC", "Npz", "read_npy"]

MAGIC = b"\x93NUMPY"
_MAX_HEADER_BYTES = 10_000  # numpy's own limit, which it looks at once the header is in memory
_LENGTHS = {(1, 0): "<H", (2, 0): "<I"}  # version 3.0 is of records alone
_NUMBERS_AND_TEXTS = "fiubcUSmM"
_CHUNK_BYTES = 1 << 20


class Npz:
    """A ``.npz`` whose arrays are read one by one; ``files`` are their names.

    Raises:
        ValueError: not one, two arrays of one name, or an array is damaged or not of numbers or texts.
        OSError, zipfile.BadZipFile: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        check_plain(path)
        self._archive = zipfile.ZipFile(path)
        self.files = [name[:-4] if name.endswith(".npy") else name for name in self._archive.namelist()]
        self._entries = dict(zip(self.files, self._archive.infolist()))
        # Of two entries of one name `_entries` keeps the last, while `files` lists both.
        if len(self._entries) < len(self.files):
            twice = next(name for name in self.files if self.files.count(name) > 1)
            self._archive.close()
            raise ValueError(f"two arrays are called '{twice[:80]}': save the file anew, each name once")

    def __enter__(self) -> Npz:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self._entries[name]
        with self._archive.open(entry) as stream:
            return _array(stream, entry.file_size)


def read_npy(path: Path) -> np.ndarray:
    """The array of a ``.npy`` file.

    Raises:
        ValueError: damaged, or not of numbers or texts.
        OSError: it cannot be read.
    """
    check_plain(path)
    with path.open("rb") as stream:
        return _array(stream, path.stat().st_size)


def _array(stream: Any, size_bytes: int) -> np.ndarray:
    """The array in a stream of so many bytes."""
    shape, is_fortran, dtype, header_bytes = _header(stream)
    if dtype.kind not in _NUMBERS_AND_TEXTS or not dtype.itemsize:
        kind = "Python objects, which are a program" if dtype.hasobject else f"neither numbers nor texts ({dtype})"
        raise ValueError(f"it holds {kind[:200]}: save an array of a plain dtype, as array.astype('float32')")
    # Header and file must agree before memory is taken on the header's word.
    needed, held = math.prod(shape) * dtype.itemsize, size_bytes - header_bytes
    if needed != held:
        raise ValueError(f"damaged: its header says {needed} bytes, it holds {held}")
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    if needed > limit:
        raise ValueError(f"it would take {needed >> 30} GiB, more than half of this machine's memory: give fewer rows")
    # Of the dtype, filled as bytes: no second copy of the whole array.
    flat = np.empty(math.prod(shape), dtype)
    _fill(stream, flat.view(np.uint8))
    # Columns first: the reversed shape in memory order, turned without a copy.
    return flat.reshape(shape[::-1]).transpose() if is_fortran else flat.reshape(shape)


def _header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether columns come first, dtype, and how many bytes the header takes."""
    start = stream.read(len(MAGIC) + 2)
    version = tuple(start[len(MAGIC) :])
    if start[: len(MAGIC)] != MAGIC or version not in _LENGTHS:
        raise ValueError("not an array of numpy's format, versions 1.0 and 2.0")
    length = stream.read(struct.calcsize(_LENGTHS[version]))
    if len(length) < struct.calcsize(_LENGTHS[version]):
        raise ValueError("damaged: it ends in its header")
    (header_bytes,) = struct.unpack(_LENGTHS[version], length)
    if header_bytes > _MAX_HEADER_BYTES:
        raise ValueError(f"damaged: its header has {header_bytes} bytes, at most {_MAX_HEADER_BYTES} are read")
    # The length is part of what numpy's own parser reads.
    text = io.BytesIO(length + stream.read(header_bytes))
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, is_fortran, dtype = read(text)
    except Exception as e:  # the parser of its text raises whatever that of Python raises
        raise ValueError("damaged: its header is none of numpy's") from e
    if min(shape, default=0) < 0:
        raise ValueError(f"damaged: its header says the shape {str(shape)[:80]}")
    return tuple(int(n) for n in shape), bool(is_fortran), dtype, len(start) + len(length) + header_bytes


def _fill(stream: Any, into: np.ndarray) -> None:
    view, at = into.data, 0
    while at < len(view):
        count = stream.readinto(view[at : at + _CHUNK_BYTES])
        if not count:
            raise ValueError("damaged: it ends before its last element")
        at += count
