"""The ``.ewz`` file: a model file of any format, coded for transfer, and rebuilt on the device byte by byte.

Layout (integers are LEB128 unless said otherwise)::

    "EWZ" version(1 byte)  CRC-32 of all that follows (4 bytes, little-endian)
    original size   first 16 bytes of the original's SHA-256
    skeleton: what is not weights, in one piece (method, coded size, size)
    number of tensors, then for each: bytes of skeleton before it, element type, rows, columns, palette, streams
    the coded streams, in the order of the tensors; the context-coded ones share one, which stands first

A tensor is levels (small integers, 0 the most frequent) behind a palette, or, where its values are too many for one,
a stream for each byte of its elements. `edgewright.codec` writes these files.
"""

from __future__ import annotations

import hashlib
import lzma
import zlib
from dataclasses import dataclass, replace

import numpy as np

from edgewright_runtime.codec import context_model, huffman, wide_context
from edgewright_runtime.codec.context_model import LevelShape
from edgewright_runtime.codec.rans import RansDecoder, WorkLimitError
from edgewright_runtime.codec.wide_context import WideShape
from edgewright_runtime.errors import IntegrityError

__all__ = [
    "DEFAULT_LIMIT_BYTES",
    "DICTIONARY",
    "DIGEST_BYTES",
    "DTYPES",
    "MAGIC",
    "Method",
    "Palette",
    "is_ewz",
    "lzma_filters",
    "rebuild",
    "split_planes",
]

MAGIC = b"EWZ\x01"
DIGEST_BYTES = 16
DEFAULT_LIMIT_BYTES = 1 << 30
_HEAD = len(MAGIC) + 4
_MAX_TENSORS = 1 << 20
_MAX_ALPHABET = 1 << 16
# The context model keeps counts for every row and column of every plane.
_MAX_CONTEXT_COUNTS = 1 << 23
# Each of a context-coded tensor's rows and columns has a flag, of some 6 microseconds: so many, and one for 4 bytes of
# the original.
_FREE_FLAGS = 1 << 20
_BYTES_PER_FLAG = 4
DTYPES = ("<u1", "<i1", "<i2", "<i4", "<f2", "<f4")

# Text that most small model files share, so that it need not be sent (as Brotli's dictionary).
DICTIONARY = (
    b"serving_defaultTFL3CONVERSION_METADATAmin_runtime_version2.14.01.5.0StatefulPartitionedCall:0"
    b"keepdimsdatafp32axesepsilonmomentumReduceMeanAddMulSubDivMatMulSigmoidSoftmaxLogSoftmaxConcatReshapeTranspose"
    b"QuantizeLinearDequantizeLinearBatchNormalizationGlobalAveragePoolAveragePoolClipFlatten"
    b'count_include_padceil_modestorage_orderauto_padMaxPoolConv\x1a\x04Relu"\x04Relu'
    b"dilations@\x01@\x01\xa0\x01\x07groupkernel_shape@\x02@\x02pads@\x00@\x00@\x00@\x00strides@\x02@\x02\xa0\x01\x07"
    b"\n\x11\n\x05alpha\x15\x00\x00\x80?\xa0\x01\x01\n\x10\n\x04beta\x15\x00\x00\x80?\xa0\x01\x01"
    b"\n\r\n\x06transA\x18\x00\xa0\x01\x02\n\r\n\x06transB\x18\x01\xa0\x01\x02weightbiasinputoutputlogits"
    b'"\x04Gemm*\r\n\x06transB\x18\x01\xa0\x01\x02axis\x18\x01main_graphB\x04\n\x00\x10\x12B\x04\n\x00\x10\x14'
    b"\x08\x01\x10\x01\x12\n\n\x08\n\x06\x12\x04batchx\x12\x1a\n\x18\x08\x01\x12\x14\n\x07\x12\x05batch\n\x02\x08\x01"
)


class Method:
    """How a stream of levels or bytes is coded."""

    RAW = 0
    LZMA = 1
    DEFLATE = 2
    HUFFMAN = 3
    RUNS = 4
    CONTEXT = 5
    ZERO = 6
    WIDE = 7


class Palette:
    """What a level stands for. PLANES: each byte of the elements is a stream of its own, level + offset."""

    INTEGER = 0  # the element is level + offset
    UNIFORM = 1  # the element is float32(level) * step
    TABLE = 2  # the element is table[level + offset]
    PLANES = 3


def is_ewz(data: bytes) -> bool:
    """Whether this looks like an ``.ewz`` file of a version that this code reads."""
    return data[: len(MAGIC)] == MAGIC


def rebuild(data: bytes, *, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> bytes:
    """The original file, byte for byte.

    Memory: at most some twenty times the original's size, which is checked against ``limit_bytes`` before anything is
    allocated, and 250 MB for the counts of the context models. Time: some ten microseconds for a byte of the original,
    and a millisecond for a byte of the file. Pass the size that a signed manifest states: then no file, however made,
    costs more.

    Raises:
        IntegrityError: truncated, corrupted, larger than the limit, or not an ``.ewz`` file.
        WorkLimitError: an IntegrityError, too: few bytes that ask for too much work.
    """
    if not is_ewz(data):
        raise IntegrityError(f"not an .ewz file of version {MAGIC[3]}: it starts with {data[:4]!r}")
    if len(data) < _HEAD or zlib.crc32(data[_HEAD:]) != int.from_bytes(data[len(MAGIC) : _HEAD], "little"):
        raise IntegrityError("the .ewz file is truncated or corrupted: its checksum does not fit")
    # Heads first: every size is held against the original's before anything of that size is allocated.
    reader = _Reader(data[_HEAD:])
    size = reader.number(limit_bytes, "original size")
    digest = reader.take(DIGEST_BYTES)
    skeleton_method, coded_bytes, skeleton_bytes = reader.byte(), reader.number(len(data)), reader.number(size)
    tensors = _read_tensors(reader, size - skeleton_bytes)
    # All context-coded tensors share one coder, whose state goes on from each to the next.
    flags = sum(tensor.flags for tensor in tensors)
    if flags > _FREE_FLAGS + size // _BYTES_PER_FLAG:
        raise WorkLimitError(f".ewz file: {flags} rows and columns of context-coded tensors in {size} bytes")
    context = RansDecoder(reader.take(reader.number(len(data))), flags) if flags else None
    skeleton = _decode_bytes(skeleton_method, reader.take(coded_bytes), skeleton_bytes)
    original = b"".join(_pieces(skeleton, tensors, reader, context))
    if context is not None:
        context.finish()
    if not reader.at_end:
        raise IntegrityError("the .ewz file has bytes after its last stream")
    if len(original) != size or hashlib.sha256(original).digest()[:DIGEST_BYTES] != digest:
        raise IntegrityError("the rebuilt file is not the original: its digest differs")
    return original


def lzma_filters(settings: int, size: int) -> list[dict[str, int]]:
    """Filters of a raw LZMA1 stream; ``settings`` is lc + 9 * (lp + 5 * pb), as in a .lzma file's first byte."""
    # lc 0-8, lp 0-4 and pb 0-4 in one number; liblzma takes no lc + lp above 4.
    if settings >= 9 * 5 * 5 or settings % 9 + settings // 9 % 5 > 4:
        raise IntegrityError(f"LZMA settings {settings} are not allowed")
    # No larger than the part: a decoder allocates the whole dictionary. 4096 is liblzma's least.
    dictionary = 1 << min(max(size, 4096).bit_length(), 30)
    return [
        {
            "id": lzma.FILTER_LZMA1,
            "lc": settings % 9,
            "lp": settings // 9 % 5,
            "pb": settings // 45,
            "dict_size": dictionary,
        }
    ]


def split_planes(raw: np.ndarray) -> np.ndarray:
    """(N, itemsize) bytes of little-endian floats to (itemsize, N), the sign moved below the mantissa.

    The last plane then holds a float32's whole exponent, which is what can be predicted.
    """
    bits = 8 * raw.shape[1]
    word = np.ascontiguousarray(raw).view(f"<u{raw.shape[1]}")[:, 0]
    rotated = (word << 1) | (word >> (bits - 1))
    return np.ascontiguousarray(rotated[:, None].view(np.uint8).T)


def _join_planes(planes: list[np.ndarray]) -> np.ndarray:
    together = np.ascontiguousarray(np.stack(planes, axis=1).astype(np.uint8))
    bits = 8 * len(planes)
    word = together.view(f"<u{len(planes)}")[:, 0]
    return (word >> 1) | (word << (bits - 1))


class _Reader:
    """Take numbers and bytes from the front; running out is an IntegrityError."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at == len(self._data)

    def take(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise IntegrityError(f"the .ewz file ends {count - len(self._data) + self._at} bytes too early")
        self._at += count
        return self._data[self._at - count : self._at]

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self, limit: int, what: str = "a size") -> int:
        value = shift = 0
        while True:
            part = self.byte()
            value |= (part & 0x7F) << shift
            # The shift, too: groups of zeros without an end never exceed a limit.
            if value > limit or shift > 63:
                raise IntegrityError(f".ewz file: {what} is above {limit}")
            if part < 0x80:
                return value
            shift += 7

    def signed(self) -> int:
        # Zigzag: 0, -1, 1, -2 ... are 0, 1, 2, 3 ...
        value = self.number(1 << 18)
        return -(value >> 1) - 1 if value & 1 else value >> 1


@dataclass
class _Stream:
    method: int
    shape: LevelShape | None = None
    transposed: bool = False
    coded_bytes: int = 0
    offset: int = 0
    wide: WideShape | None = None


@dataclass
class _Tensor:
    skeleton_before: int
    dtype: np.dtype
    rows: int
    columns: int
    palette: int
    offset: int
    step: np.float32
    table: np.ndarray
    streams: list[_Stream]

    @property
    def flags(self) -> int:
        """How many rows and columns its context-coded streams have; 0 where there is none."""
        return sum(stream.shape.rows + stream.shape.columns for stream in self.streams if stream.shape)

    @property
    def elements(self) -> int:
        return self.rows * self.columns


def _read_tensors(reader: _Reader, room: int) -> list[_Tensor]:
    tensors = []
    for _ in range(reader.number(_MAX_TENSORS, "number of tensors")):
        tensors.append(_read_tensor(reader, room))
        room -= tensors[-1].elements * tensors[-1].dtype.itemsize
    if room:
        raise IntegrityError(".ewz file: tensors and skeleton do not add up to the original's size")
    return tensors


def _read_tensor(reader: _Reader, room: int) -> _Tensor:
    before, code = reader.number(DEFAULT_LIMIT_BYTES), reader.byte()
    if code >= len(DTYPES):
        raise IntegrityError(f".ewz file: unknown element type {code}")
    dtype = np.dtype(DTYPES[code])
    rows, columns = reader.number(room), reader.number(room)
    # An empty tensor would leave min() and max() of its levels without an answer.
    if rows * columns * dtype.itemsize > room or not rows * columns:
        raise IntegrityError(f".ewz file: a tensor of {rows} x {columns} elements does not fit")
    palette, offset, step, table = reader.byte(), 0, np.float32(0), np.zeros(0, dtype)
    if palette in {Palette.INTEGER, Palette.TABLE}:
        offset = reader.signed()
    if palette == Palette.UNIFORM:
        step = np.frombuffer(reader.take(4), "<f4")[0]
    elif palette == Palette.TABLE:
        table = np.frombuffer(reader.take(reader.number(_MAX_ALPHABET) * dtype.itemsize), dtype)
    elif palette not in {Palette.INTEGER, Palette.PLANES}:
        raise IntegrityError(f".ewz file: unknown palette {palette}")
    if palette == Palette.PLANES:
        offsets_and_streams = [(reader.byte(), _read_stream(reader, rows, columns)) for _ in range(dtype.itemsize)]
        streams = [replace(stream, offset=plane_offset) for plane_offset, stream in offsets_and_streams]
    else:
        streams = [_read_stream(reader, rows, columns)]
    return _Tensor(before, dtype, rows, columns, palette, offset, step, table, streams)


def _read_stream(reader: _Reader, rows: int, columns: int) -> _Stream:
    tag = reader.byte()
    method, transposed = tag & 0x0F, bool(tag & 0x80)
    if method == Method.ZERO:
        return _Stream(method)
    if method == Method.WIDE:
        return _read_wide(reader, *((columns, rows) if transposed else (rows, columns)), transposed)
    if method != Method.CONTEXT:
        return _Stream(method, coded_bytes=reader.number(DEFAULT_LIMIT_BYTES))
    if transposed:
        rows, columns = columns, rows
    classes = reader.byte()
    shape = LevelShape(rows, columns, reader.number(rows), reader.number(columns), reader.number(1 << 20), classes)
    if not (shape.row_group and shape.group and shape.unit and 0 < classes <= context_model.MAX_CLASS):
        raise IntegrityError(".ewz file: a context-coded tensor has an impossible layout")
    if context_model.count_of(shape) > _MAX_CONTEXT_COUNTS:
        raise IntegrityError(".ewz file: a context-coded tensor has too many rows and columns")
    return _Stream(method, shape, transposed)


def _read_wide(reader: _Reader, rows: int, columns: int, transposed: bool) -> _Stream:
    classes, group, weights = reader.byte(), reader.number(columns), tuple(reader.take(3))
    shape = WideShape(rows, columns, group, classes, (weights[0], weights[1], weights[2]))
    return _Stream(Method.WIDE, None, transposed, reader.number(DEFAULT_LIMIT_BYTES), wide=shape)


def _pieces(skeleton: bytes, tensors: list[_Tensor], reader: _Reader, context: RansDecoder | None) -> list[bytes]:
    pieces, at = [], 0
    for tensor in tensors:
        pieces.append(skeleton[at : at + tensor.skeleton_before])
        at += tensor.skeleton_before
        pieces.append(_decode_tensor(tensor, reader, context))
    pieces.append(skeleton[at:])
    return pieces


def _decode_tensor(tensor: _Tensor, reader: _Reader, context: RansDecoder | None) -> bytes:
    if tensor.palette == Palette.PLANES:
        planes = [_decode_levels(s, tensor.elements, reader, context) + s.offset for s in tensor.streams]
        if any(p.min() < 0 or p.max() > 255 for p in planes):
            raise IntegrityError(".ewz file: a byte plane holds what is not a byte")
        return _join_planes(planes).tobytes()
    levels = _decode_levels(tensor.streams[0], tensor.elements, reader, context)
    if tensor.palette == Palette.UNIFORM:
        # A product of two float32 is rounded alike everywhere (IEEE 754); a sum of products would not be.
        return (levels.astype(np.float32) * tensor.step).astype(tensor.dtype).tobytes()
    values = levels + tensor.offset
    if tensor.palette == Palette.INTEGER:
        held = np.iinfo(tensor.dtype)
        if values.min() < held.min or values.max() > held.max:
            raise IntegrityError(f".ewz file: a level is outside the range of {tensor.dtype}")
        return values.astype(tensor.dtype).tobytes()
    # Below zero an index would count from the table's end.
    if values.min() < 0 or values.max() >= len(tensor.table):
        raise IntegrityError(".ewz file: a level is outside its codebook")
    return bytes(tensor.table[values].tobytes())


def _decode_levels(stream: _Stream, count: int, reader: _Reader, context: RansDecoder | None) -> np.ndarray:
    """(count,) integers in the tensor's own order."""
    if stream.method == Method.ZERO:
        return np.zeros(count, dtype=np.int32)
    if stream.method == Method.CONTEXT:
        if stream.shape is None or context is None:
            raise IntegrityError(".ewz file: a context-coded tensor without its stream")
        levels = context_model.code_levels(context, stream.shape)
        return (levels.T if stream.transposed else levels).reshape(-1)
    data = reader.take(stream.coded_bytes)
    if stream.method == Method.WIDE and stream.wide is not None:
        levels = wide_context.decode_levels(data, stream.wide)
        return (levels.T if stream.transposed else levels).reshape(-1)
    if stream.method == Method.HUFFMAN:
        return _decode_huffman(_Reader(data), count)
    if stream.method == Method.RUNS:
        return _decode_runs(_Reader(data), count)
    return np.frombuffer(_decode_bytes(stream.method, data, count), dtype=np.uint8).astype(np.int32)


def _decode_huffman(reader: _Reader, count: int) -> np.ndarray:
    """Smallest symbol, alphabet size, code lengths (two in a byte, deflated), block sizes in bits, the codes."""
    lowest, alphabet = reader.signed(), reader.number(_MAX_ALPHABET)
    nibbles = np.frombuffer(_inflate(reader.take(reader.number(1 << 20)), -(-alphabet // 2)), dtype=np.uint8)
    # The low half of each byte is the first symbol's; an odd alphabet leaves the last half unused.
    lengths = np.stack([nibbles & 0x0F, nibbles >> 4], axis=1).reshape(-1)[:alphabet]
    blocks = np.frombuffer(reader.take(4 * -(-count // huffman.BLOCK_SYMBOLS)), dtype="<u4").astype(np.int64)
    # Before their sum: it says how many bytes are taken, and where decoding may look.
    if blocks.max(initial=0) > huffman.BLOCK_SYMBOLS * huffman.MAX_LENGTH:
        raise IntegrityError(".ewz file: a Huffman block is longer than its symbols can be")
    data = reader.take(-(-int(blocks.sum()) // 8))
    return huffman.decode_symbols(data, lengths, blocks, count) + lowest


def _decode_runs(reader: _Reader, count: int) -> np.ndarray:
    """Number of runs, number of values; the runs of zeros and then the values, Huffman-coded apart.

    A run of ``longest`` zeros is followed by no value (Deep Compression's filler), every other one by the next value.
    """
    longest, run_count, value_count = reader.number(_MAX_ALPHABET), reader.number(count), reader.number(count)
    runs = _decode_huffman(reader, run_count) if run_count else np.zeros(0, np.int32)
    values = _decode_huffman(reader, value_count) if value_count else np.zeros(0, np.int32)
    full = runs == longest
    # Where each run ends, its value included if it has one.
    ends = np.cumsum(runs + ~full)
    if runs.min(initial=0) < 0 or int((~full).sum()) != value_count or (len(ends) and int(ends[-1]) > count):
        raise IntegrityError(".ewz file: runs of zeros do not fit their tensor")
    levels = np.zeros(count, dtype=np.int32)
    levels[ends[~full] - 1] = values
    return levels


def _decode_bytes(method: int, data: bytes, size: int) -> bytes:
    if method == Method.RAW:
        out = data
    elif method == Method.DEFLATE:
        out = _inflate(data, size, DICTIONARY)
    elif method == Method.LZMA:
        out = _unlzma(data, size)
    else:
        raise IntegrityError(f".ewz file: unknown method {method}")
    if len(out) != size:
        raise IntegrityError(f".ewz file: a part unpacks to {len(out)} bytes, {size} were announced")
    return bytes(out)


def _inflate(data: bytes, size: int, dictionary: bytes = b"") -> bytes:
    unpacker = zlib.decompressobj(-15, zdict=dictionary) if dictionary else zlib.decompressobj(-15)
    try:
        # One byte more than announced shows that it goes on, and no more than that is unpacked.
        out = unpacker.decompress(data, size + 1)
    except zlib.error as e:
        raise IntegrityError(f".ewz file: deflated part is corrupt: {e}") from e
    if len(out) != size or not unpacker.eof or unpacker.unused_data:
        raise IntegrityError(".ewz file: a deflated part has not the announced size")
    return bytes(out)


def _unlzma(data: bytes, size: int) -> bytes:
    if not data:
        raise IntegrityError(".ewz file: an LZMA part is empty")
    unpacker = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=lzma_filters(data[0], size))
    try:
        out = unpacker.decompress(data[1:], max_length=size)
    except lzma.LZMAError as e:
        raise IntegrityError(f".ewz file: LZMA part is corrupt: {e}") from e
    return bytes(out)
