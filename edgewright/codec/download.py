"""The form in which a model is downloaded: each file as ``.ewz`` or xz, whichever a device rebuilds it from."""

import hashlib
import lzma
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from edgewright.errors import InputError
from edgewright.measurement import Footprint
from edgewright.store import home, replace_file
from edgewright.value import Value
from edgewright_runtime.codec.ewz import is_ewz, rebuild
from edgewright_runtime.disk import make_own_folder
from edgewright_runtime.errors import IntegrityError

__all__ = ["download_bytes", "footprint", "transfer_form", "unpacked"]

_XZ_PRESET = 6  # xz's own default; a device unpacks it in steps of a block
_DECODER_MEMORY_BYTES = 64 << 20  # the preset needs 9 MB; what a stream asks for is its maker's choice
_MODEL_SUFFIXES = {".tflite", ".onnx", ".bin"}
# An .ewz is rebuilt in memory, at up to some twenty times its size and 250 MB; a larger file is sent as xz.
_LARGEST_CODED_BYTES = 64 << 20
# An xz unpacks in bounded memory, so an .ewz has to be worth it.
_MIN_SAVING = 0.005


class _Parts(Value):
    """What is known of a file's transfer form beside its bytes; ``packed`` is its SHA-256."""

    packed: str
    size_bytes: int
    weights: int = 0
    non_zero: int = 0
    codebook_bytes: int = 0
    index_bytes: int = 0


def download_bytes(path: Path) -> int:
    """Bytes of the transfer form of a file, or of all files in a folder (a package, a bundle)."""
    return sum(len(transfer_form(file)) for file in _files(path))


def footprint(path: Path) -> Footprint:
    """What a model file, or all files of a package, weigh on disk and in transfer, and how the weights are coded."""
    file_parts = [_packed(file)[1] for file in _files(path)]
    return Footprint(
        size_bytes=sum(file.stat().st_size for file in _files(path)),
        download_bytes=sum(parts.size_bytes for parts in file_parts),
        weights=sum(parts.weights for parts in file_parts),
        non_zero=sum(parts.non_zero for parts in file_parts),
        codebook_bytes=sum(parts.codebook_bytes for parts in file_parts),
        index_bytes=sum(parts.index_bytes for parts in file_parts),
    )


def transfer_form(path: Path) -> bytes:
    """The bytes that a device downloads instead of this file; kept in the store, since coding a model takes seconds."""
    return _packed(path)[0]


def unpacked(packed: bytes, limit_bytes: int) -> bytes:
    """The original of a transfer form, which is at most ``limit_bytes`` long.

    Raises:
        IntegrityError: damaged, neither ``.ewz`` nor xz, or longer than the limit.
    """
    if is_ewz(packed):
        return rebuild(packed, limit_bytes=limit_bytes)
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_DECODER_MEMORY_BYTES)
    try:
        # One byte more: an original that is too long is told from one that just fits.
        content = unpacker.decompress(packed, max_length=limit_bytes + 1)
    except lzma.LZMAError as e:
        raise IntegrityError(f"not a valid xz stream: {e}") from e
    if len(content) > limit_bytes:
        raise IntegrityError(f"the xz stream unpacks to more than {limit_bytes} bytes")
    if not unpacker.eof or unpacker.unused_data:
        raise IntegrityError("the xz stream is broken off, or followed by something else")
    return content


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _packed(path: Path) -> tuple[bytes, _Parts]:
    content = path.read_bytes()
    if path.suffix not in _MODEL_SUFFIXES or len(content) > _LARGEST_CODED_BYTES:
        packed = lzma.compress(content, preset=_XZ_PRESET)
        return packed, _Parts(packed=_digest(packed), size_bytes=len(packed))
    folder = home() / "transfer" / _digest(content)
    entry = _kept(folder)
    if entry is None:
        entry = _coded(content)
        make_own_folder(folder)
        # The note last: without it, or where it tells of other bytes, the file is coded anew.
        replace_file(folder / "packed", entry[0])
        replace_file(folder / "parts.json", entry[1].model_dump_json().encode())
    return entry


def _kept(folder: Path) -> tuple[bytes, _Parts] | None:
    try:
        parts = _Parts.model_validate_json((folder / "parts.json").read_bytes())
        packed = (folder / "packed").read_bytes()
    except (OSError, ValidationError):  # not there, or a disk error: made anew
        return None
    # A rotten byte here would be published, and refused by every device.
    if (_digest(packed), len(packed)) != (parts.packed, parts.size_bytes):
        return None
    with suppress(OSError):  # a home that can only be read
        os.utime(folder)  # when it was last of use, for `edgewright store gc`
    return packed, parts


def _coded(content: bytes) -> tuple[bytes, _Parts]:
    from edgewright.codec.containers import find_tensors
    from edgewright.codec.writer import encode

    packed = lzma.compress(content, preset=_XZ_PRESET)
    try:
        tensors = find_tensors(content)
    except InputError:  # named like a model, and none
        return packed, _Parts(packed=_digest(packed), size_bytes=len(packed))
    encoded = encode(content, tensors)
    stored = [np.frombuffer(content[t.start : t.stop], t.dtype) for t in tensors]
    if len(encoded.data) <= (1 - _MIN_SAVING) * len(packed):
        packed = encoded.data
    parts = _Parts(
        packed=_digest(packed),
        size_bytes=len(packed),
        weights=sum(len(numbers) for numbers in stored),
        non_zero=sum(int(np.count_nonzero(numbers)) for numbers in stored),
        codebook_bytes=encoded.codebook_bytes,
        index_bytes=encoded.index_bytes,
    )
    return packed, parts


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
