"""A new file out of an old one and a patch: what a device applies instead of a full download.

Whatever a patch says, the result counts only if it has the digest that the release names; a patch that fails means
a full download. Codecs:

``tensor``   segments of the file: copied, new, or element-wise differences of a tensor's stored numbers
``bsdiff``   the BSDIFF40 format (Percival, Naive Differences of Executable Code, 2003)
``zstd``     a Zstandard frame that uses the old file as its dictionary; needs the package ``zstandard``
"""

from __future__ import annotations

import bz2
import io
import json
import lzma
import struct
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec

import numpy as np

from edgewright_runtime.errors import BackendUnavailableError, IntegrityError
from edgewright_runtime.strict_json import Fields, bounded_integer

__all__ = ["CODECS", "MAX_PATCHED_BYTES", "TENSOR_MAGIC", "apply_patch", "readable_codecs", "to_difference"]

# Patches are applied in memory; a larger file is downloaded in full, in blocks.
MAX_PATCHED_BYTES = 512 << 20
TENSOR_MAGIC = b"EWTD1\n"
_MAX_HEADER_BYTES = 4 << 20
_DECODER_MEMORY_BYTES = 128 << 20
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def apply_patch(codec: str, base: bytes, patch: bytes, result_bytes: int) -> bytes:
    """The new file's bytes; its digest is the caller's to check.

    Raises:
        IntegrityError: not a valid patch of this base and result length.
        BackendUnavailableError: the codec is unknown, or its package is not installed.
    """
    if codec not in CODECS:
        raise BackendUnavailableError(f"patch codec '{codec}' is unknown here; known: {', '.join(CODECS)}")
    if result_bytes > MAX_PATCHED_BYTES:
        raise IntegrityError(f"a patch to {result_bytes} bytes; at most {MAX_PATCHED_BYTES} are patched")
    result = CODECS[codec](base, patch, result_bytes)
    if len(result) != result_bytes:
        raise IntegrityError(f"the patch makes {len(result)} bytes, announced were {result_bytes}")
    return result


def readable_codecs() -> set[str]:
    """The codecs that this device can apply: ``zstd`` only where its package is installed."""
    return {codec for codec in CODECS if codec != "zstd" or find_spec("zstandard") is not None}


def to_difference(base: np.ndarray, new: np.ndarray, *, is_float: bool) -> bytes:
    """Differences of two arrays of unsigned integers (the stored bits), as byte planes; the inverse is below.

    Floats are first mapped to integers of the same order, so that a small change of value is a small difference.
    """
    unsigned = base.dtype.type
    bits = unsigned(base.dtype.itemsize * 8 - 1)
    # Differences modulo 2^bits: they wrap on purpose, and wrap back when they are added.
    with np.errstate(over="ignore"):
        difference = _ordered(new, is_float) - _ordered(base, is_float)
        # Zigzag: differences of either sign around zero become small numbers, whose high planes are zeros.
        zigzag = (difference << unsigned(1)) ^ (unsigned(0) - (difference >> bits))
    return bytes(zigzag.view(np.uint8).reshape(-1, base.dtype.itemsize).T.tobytes())


def _from_difference(base: np.ndarray, planes: bytes, *, is_float: bool) -> bytes:
    unsigned, width = base.dtype.type, base.dtype.itemsize
    rows = np.frombuffer(planes, np.uint8).reshape(width, -1).T
    zigzag = np.ascontiguousarray(rows).view(base.dtype).reshape(-1)
    with np.errstate(over="ignore"):
        difference = (zigzag >> unsigned(1)) ^ (unsigned(0) - (zigzag & unsigned(1)))
        mapped = _ordered(base, is_float) + difference
    return _unordered(mapped, is_float).tobytes()


def _ordered(bits: np.ndarray, is_float: bool) -> np.ndarray:
    if not is_float:
        return bits
    # Negative floats sort backwards by their bits: those are inverted, and moved below the positive ones.
    sign = bits.dtype.type(1 << (bits.dtype.itemsize * 8 - 1))
    return np.where(bits & sign, ~bits, bits | sign)


def _unordered(mapped: np.ndarray, is_float: bool) -> np.ndarray:
    if not is_float:
        return mapped
    sign = mapped.dtype.type(1 << (mapped.dtype.itemsize * 8 - 1))
    return np.where(mapped & sign, mapped & ~sign, ~mapped)


def _apply_tensor(base: bytes, patch: bytes, result_bytes: int) -> bytes:
    # More than its header and the whole result no patch can need.
    body = io.BytesIO(_unpacked(patch, len(TENSOR_MAGIC) + 4 + _MAX_HEADER_BYTES + result_bytes))
    if body.read(len(TENSOR_MAGIC)) != TENSOR_MAGIC:
        raise IntegrityError("not a tensor patch")
    (length,) = struct.unpack("<I", _exactly(body, 4))
    # Its own check: within the bound above, a header could still take what the result is allowed.
    if length > _MAX_HEADER_BYTES:
        raise IntegrityError(f"a tensor patch with a header of {length} bytes")
    try:
        segments = json.loads(_exactly(body, length), parse_int=bounded_integer)
    except (ValueError, RecursionError) as e:
        raise IntegrityError(f"tensor patch: header: {str(e)[:200]}") from e
    if not isinstance(segments, list):
        raise IntegrityError("tensor patch: the header is not a list")
    out = bytearray()
    for i, segment in enumerate(segments):
        out += _segment(Fields(segment, f"tensor patch, segment {i}"), base, body, result_bytes - len(out))
    if body.read(1):
        raise IntegrityError("tensor patch: bytes are left over")
    return bytes(out)


def _segment(f: Fields, base: bytes, body: io.BytesIO, room: int) -> bytes:
    kind = f.text("kind", ("copy", "new", "float", "integer"))
    length = f.whole("bytes", 0, room)
    if kind == "new":
        f.done()
        return _exactly(body, length)
    offset = f.whole("at", 0, len(base) - length)
    if kind == "copy":
        f.done()
        return base[offset : offset + length]
    width = f.whole("width")
    f.done()
    if width not in _UNSIGNED or length % width or (kind == "float" and width == 1):
        raise IntegrityError(f"tensor patch: {length} bytes in elements of {width}")
    # Elements of a base that was written by others stand at any byte: frombuffer needs no alignment.
    old = np.frombuffer(base, _UNSIGNED[width], length // width, offset)
    return _from_difference(old, _exactly(body, length), is_float=kind == "float")


def _apply_bsdiff(base: bytes, patch: bytes, result_bytes: int) -> bytes:
    if patch[:8] != b"BSDIFF40" or len(patch) < 32:
        raise IntegrityError("not a bsdiff patch")
    control_bytes, diff_bytes, size = struct.unpack("<qqq", patch[8:32])
    if size != result_bytes or control_bytes < 0 or diff_bytes < 0:
        raise IntegrityError(f"a bsdiff patch to {size} bytes, announced were {result_bytes}")
    first, second = 32 + control_bytes, 32 + control_bytes + diff_bytes
    diff = np.frombuffer(_unbzipped(patch[first:second], result_bytes), np.uint8)
    extra = _unbzipped(patch[second:], result_bytes)
    old = np.frombuffer(base, np.uint8)
    out, at, d, e, idle = bytearray(), 0, 0, 0, False
    for add, insert, seek in _triples(patch[32:first]):
        if add < 0 or insert < 0 or len(out) + add + insert > result_bytes or d + add > len(diff):
            raise IntegrityError("bsdiff patch: a step leads outside")
        # One that only moves is of use before one that makes something; many in a row would only take time.
        if idle and not add and not insert:
            raise IntegrityError("bsdiff patch: steps that make nothing")
        idle = not add and not insert
        out += _added(old, at, diff[d : d + add])
        out += extra[e : e + insert]
        at, d, e = at + add + seek, d + add, e + insert
    return bytes(out)


def _triples(packed: bytes) -> Iterator[tuple[int, int, int]]:
    """The steps of a bsdiff patch (bytes to add, to insert, to skip), unpacked as they are needed."""
    unpacker, feed, unread = bz2.BZ2Decompressor(), packed, b""
    while packed and not unpacker.eof:
        try:
            # 1,024 steps at a time: millions of them may be packed into a few bytes.
            piece = unpacker.decompress(feed, max_length=24 << 10)
        except (OSError, ValueError) as e:
            raise IntegrityError(f"patch: not a valid bzip2 stream: {e}") from e
        if not piece and not unpacker.eof and unpacker.needs_input:
            raise IntegrityError("patch: its bzip2 stream is cut off")
        feed, unread = b"", unread + piece
        whole = len(unread) // 24 * 24
        for add, insert, seek in struct.iter_unpack("<qqq", unread[:whole]):
            yield _signed(add), _signed(insert), _signed(seek)
        unread = unread[whole:]


def _added(old: np.ndarray, at: int, diff: np.ndarray) -> bytes:
    """Old bytes plus differences, modulo 256; outside the old file its bytes count as zero."""
    result = diff.copy()
    low, high = max(at, 0), min(at + len(diff), len(old))
    if low < high:
        result[low - at : high - at] += old[low:high]
    return result.tobytes()


def _signed(value: int) -> int:
    # The format keeps a sign bit and a magnitude, not two's complement.
    return -(value & 0x7FFFFFFFFFFFFFFF) if value < 0 else value


def _apply_zstd(base: bytes, patch: bytes, result_bytes: int) -> bytes:
    try:
        import zstandard
    except ImportError as e:
        raise BackendUnavailableError("this patch needs the package zstandard") from e
    # Raw content: any bytes serve as a dictionary, whatever they begin with.
    dictionary = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    try:
        # read() of a stream, not decompress(): the frame's own size could ask for any amount of memory.
        with zstandard.ZstdDecompressor(dictionary, max_window_size=1 << 30).stream_reader(patch) as stream:
            return bytes(stream.read(result_bytes + 1))
    except zstandard.ZstdError as e:
        raise IntegrityError(f"zstd patch: {e}") from e


def _unpacked(packed: bytes, at_most: int) -> bytes:
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_DECODER_MEMORY_BYTES)
    try:
        content = unpacker.decompress(packed, max_length=at_most + 1)
    except lzma.LZMAError as e:
        raise IntegrityError(f"patch: not a valid xz stream: {e}") from e
    if not unpacker.eof or len(content) > at_most:
        raise IntegrityError("patch: its xz stream is cut off, or unpacks to more than the result can need")
    return content


def _unbzipped(packed: bytes, at_most: int) -> bytes:
    unpacker = bz2.BZ2Decompressor()
    try:
        content = unpacker.decompress(packed, max_length=at_most + 1) if packed else b""
    except (OSError, ValueError) as e:
        raise IntegrityError(f"patch: not a valid bzip2 stream: {e}") from e
    if len(content) > at_most or (packed and not unpacker.eof):
        raise IntegrityError("patch: its bzip2 stream is cut off, or unpacks to more than the result can need")
    return content


def _exactly(body: io.BytesIO, length: int) -> bytes:
    content = body.read(length)
    if len(content) != length:
        raise IntegrityError("tensor patch: it ends too early")
    return content


CODECS: Mapping[str, Callable[[bytes, bytes, int], bytes]] = {
    "tensor": _apply_tensor,
    "bsdiff": _apply_bsdiff,
    "zstd": _apply_zstd,
}
