"""Write an ``.ewz`` file: each tensor by the smallest of the coders, the rest of the file as a skeleton.

Huffman over codebook indices and zero runs as in Deep Compression (Han, Mao, Dally, arXiv 1510.00149); a
context-modelled rANS coder where it is smaller; LZMA for what neither fits.
"""

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from edgewright.codec.rans import RansEncoder
from edgewright.codec.streams import (
    ContextPlan,
    code_bytes,
    huffman_stream,
    number,
    plan_context,
    runs_stream,
    signed,
)
from edgewright.codec.wide import WidePlan, plan_wide, wide_stream
from edgewright_runtime.codec.context_model import code_levels, count_of
from edgewright_runtime.codec.ewz import DIGEST_BYTES, DTYPES, MAGIC, Method, Palette, rebuild, split_planes
from edgewright_runtime.codec.rans import WorkLimitError

__all__ = ["Coder", "Encoded", "TensorSpan", "encode"]

Coder = Literal["auto", "huffman", "fixed"]
_MAX_TABLE = 1 << 14
_MAX_LEVEL = 1 << 12
_CONTEXT_COUNTS = 1 << 22
# Below this the serial context coder, the strongest, decodes in about half a second.
_SMALL_LEVELS = 1 << 19
_WIDE_SURPLUS = 1.01
_SMALL_BYTES = 1024
_TRANSPOSED = 0x80
# Dense levels of many values differ in scale alone: Huffman's codes take 1 to 2% more, and a hundredth of the time.
_CONTEXT_SPREAD = 512
_DENSE_SPREAD = 16


@dataclass(frozen=True)
class TensorSpan:
    """Where a tensor's bytes lie in a file. ``blocks`` are lengths that repeat along its columns, if any is known."""

    start: int
    dtype: str
    rows: int
    columns: int
    blocks: tuple[int, ...] = ()

    @property
    def stop(self) -> int:
        """The byte after the last."""
        return self.start + self.rows * self.columns * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Encoded:
    """An ``.ewz`` file and what its parts take, bytes: the codebooks, the coded indices, everything else."""

    data: bytes
    codebook_bytes: int
    index_bytes: int
    skeleton_bytes: int
    methods: tuple[str, ...]


@dataclass
class _Part:
    """One tensor on its way: its description, its coded streams, and its levels where they share the context stream."""

    head: bytes = b""
    codebook_bytes: int = 0
    streams: list[bytes] = field(default_factory=list)
    contexts: list[tuple[np.ndarray, ContextPlan]] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)


def encode(
    original: bytes, tensors: Sequence[TensorSpan], *, coder: Coder = "auto", context_levels: int = 1 << 21
) -> Encoded:
    """Code a file whose tensors lie at ``tensors`` (in order, not overlapping); checked by rebuilding it.

    ``coder="huffman"`` leaves the context coder and LZMA out, ``"fixed"`` Huffman's codes too (indices and runs then
    take whole bits), for measuring what each adds. ``context_levels`` is the largest tensor for the serial context
    coder, which decodes half a million to a million levels a second; the wide one, of tensors from a quarter of a
    million, decodes some ten million.
    """
    # The format has no empty tensor.
    spans = [t for t in tensors if t.stop > t.start]
    parts = [_code_tensor(original, span, coder, context_levels) for span in spans]
    encoded = _assembled(original, spans, parts)
    if spans and coder == "auto":
        # Many small tensors code shorter together; what repeats across tensors only the whole file shows.
        large = [k for k, span in enumerate(spans) if span.stop - span.start >= _SMALL_BYTES]
        for indices in [large, []] if 0 < len(large) < len(spans) else [[]]:
            other = _assembled(original, [spans[k] for k in indices], [parts[k] for k in indices])
            encoded = other if len(other.data) < len(encoded.data) else encoded
    # By the device's own decoder: a coder's defect must not reach the field.
    try:
        rebuilt = rebuild(encoded.data, limit_bytes=len(original))
    except WorkLimitError:
        # Many levels of almost no information: the other coders decode them faster than the serial one may.
        return encode(original, tensors, coder=coder, context_levels=0)
    if rebuilt != original:
        raise RuntimeError("the coded file does not decode to its original: a defect of the coder")
    return encoded


def _assembled(original: bytes, spans: list[TensorSpan], parts: list[_Part]) -> Encoded:
    """The file of these tensors and, as its skeleton, whatever they leave."""
    edges = [0, *(e for t in spans for e in (t.start, t.stop)), len(original)]
    skeleton = [original[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]
    method, coded_skeleton = code_bytes(b"".join(skeleton))
    head = bytearray(number(len(original)) + hashlib.sha256(original).digest()[:DIGEST_BYTES])
    head += bytes([method]) + number(len(coded_skeleton)) + number(sum(map(len, skeleton)))
    head += number(len(parts))
    # The skeleton has one piece more, after the last tensor; its length follows from the others.
    for before, part in zip(skeleton, parts, strict=False):
        head += number(len(before)) + part.head
    shared = _context_stream(parts)
    index_bytes = len(shared) + sum(len(s) for p in parts for s in p.streams)
    body = bytes(head) + shared + coded_skeleton + b"".join(s for p in parts for s in p.streams)
    data = MAGIC + zlib.crc32(body).to_bytes(4, "little") + body
    codebooks = sum(p.codebook_bytes for p in parts)
    methods = tuple(m for p in parts for m in p.methods)
    return Encoded(data, codebooks, index_bytes, len(data) - codebooks - index_bytes, methods)


def _context_stream(parts: list[_Part]) -> bytes:
    jobs = [job for part in parts for job in part.contexts]
    if not jobs:
        return b""
    encoder = RansEncoder()
    for levels, plan in jobs:
        code_levels(encoder, plan.shape, levels.T if plan.transposed else levels)
    stream = encoder.finish()
    return number(len(stream)) + stream


def _code_tensor(original: bytes, span: TensorSpan, coder: Coder, context_levels: int) -> _Part:
    raw = np.frombuffer(original[span.start : span.stop], dtype=span.dtype)
    described = bytes([DTYPES.index(span.dtype)]) + number(span.rows) + number(span.columns)
    is_byte = raw.dtype.kind in "iu" and raw.dtype.itemsize == 1
    palette = _integer_palette(raw) if is_byte else _float_palette(raw)
    if palette is None:
        part = _Part(described + bytes([Palette.PLANES]))
        for plane in split_planes(raw.view(np.uint8).reshape(len(raw), -1)):
            _add_plane(part, plane, span, coder, context_levels)
        return part
    head, levels = palette
    part = _Part(described + head, len(head))
    _add_stream(part, levels.reshape(span.rows, span.columns), span, coder, context_levels)
    return part


def _integer_palette(raw: np.ndarray) -> tuple[bytes, np.ndarray]:
    # In 64 bits: differences of two int8 do not fit into int8.
    values, counts = np.unique(raw.astype(np.int64), return_counts=True)
    # The most frequent value becomes level 0, which all coders take for the cheapest.
    centre = int(values[np.argmax(counts)])
    return bytes([Palette.INTEGER]) + signed(centre), raw.astype(np.int64) - centre


def _float_palette(raw: np.ndarray) -> tuple[bytes, np.ndarray] | None:
    """The description and (N,) levels of a tensor with few distinct values; None where they are too many."""
    # By their bits: as numbers, 0 and -0 are equal and NaN differs from itself, and the file would not come back.
    words = raw.view(f"<u{raw.dtype.itemsize}")
    distinct, index, counts = np.unique(words, return_inverse=True, return_counts=True)
    values = distinct.view(raw.dtype)
    if raw.dtype.kind == "f" and np.isfinite(values).all():
        # Extremes overflow in the search for a step; what overflows does not match, and no step is found.
        with np.errstate(all="ignore"):
            uniform = _uniform_levels(raw, values)
        if uniform is not None:
            return uniform
    # A codebook must cost less than the elements that it stands for.
    if len(distinct) > min(_MAX_TABLE, len(raw) // 2):
        return None
    # By value, so that near levels mean near numbers, as the context model expects of them.
    order = np.argsort(values, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    offset = int(rank[np.argmax(counts)])
    head = bytes([Palette.TABLE]) + signed(offset) + number(len(order)) + values[order].tobytes()
    return head, rank[index.reshape(-1)] - offset


def _uniform_levels(raw: np.ndarray, values: np.ndarray) -> tuple[bytes, np.ndarray] | None:
    """Levels k with raw == float32(k) * step, bit for bit, if there is such a step."""
    sizes = np.unique(np.abs(values[values != 0].astype(np.float32)))
    # Zeros alone, of either sign: a level of 0 gives back the positive one only.
    if not len(sizes):
        return (
            (bytes([Palette.UNIFORM]) + np.float32(1).tobytes(), np.zeros(len(raw), np.int64))
            if _same(raw, np.zeros(len(raw)), np.float32(1))
            else None
        )
    gaps = np.diff(np.concatenate([[0], sizes]))
    # Where no two used levels are neighbours, the smallest gap is a multiple of the step.
    for divisor in (1, 2, 3):
        # A smaller gap is not a step: it would put the largest value beyond `_MAX_LEVEL`.
        step = np.float32(min(sizes[0], gaps[gaps > sizes[-1] * 1e-4].min(initial=sizes[0])) / divisor)
        step = _refined(sizes, step)
        levels = np.rint(raw.astype(np.float64) / step)
        if np.abs(levels).max() < _MAX_LEVEL and _same(raw, levels, step):
            return bytes([Palette.UNIFORM]) + step.tobytes(), levels.astype(np.int64)
    return None


def _refined(sizes: np.ndarray, step: np.float32) -> np.float32:
    # The largest value knows the step most exactly; its rounding leaves a few candidates beside it.
    multiple = max(1.0, float(np.rint(sizes[-1] / step)))
    near = np.float32(sizes[-1] / multiple)
    for candidate in (near, np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(np.inf)), step):
        multiples = np.rint(sizes / candidate).astype(np.float32)
        if np.array_equal(multiples * candidate, sizes):
            return np.float32(candidate)
    return near


def _same(raw: np.ndarray, levels: np.ndarray, step: np.float32) -> bool:
    rebuilt = (levels.astype(np.float32) * step).astype(raw.dtype)
    return rebuilt.tobytes() == raw.tobytes()


def _add_plane(part: _Part, plane: np.ndarray, span: TensorSpan, coder: Coder, context_levels: int) -> None:
    """One byte of every element: as it is where nothing can be predicted, else as levels about the most frequent."""
    method, coded = (Method.RAW, plane.tobytes()) if coder != "auto" else code_bytes(plane.tobytes(), quick=True)
    centre = int(np.argmax(np.bincount(plane)))
    levels = plane.astype(np.int64) - centre
    # As for a float's lowest byte, which is as good as noise.
    if len(huffman_stream(levels)) >= len(coded):
        # 0 is the plane's offset, which bytes as they are do not have.
        part.head += bytes([0, method]) + number(len(coded))
        part.streams.append(coded)
        part.methods.append("bytes")
    else:
        part.head += bytes([centre])
        _add_stream(part, levels.reshape(span.rows, span.columns), span, coder, context_levels)


def _add_stream(part: _Part, levels: np.ndarray, span: TensorSpan, coder: Coder, context_levels: int) -> None:
    """Code (R, C) levels by the smallest coder and add them to their tensor."""
    if not levels.any():
        part.head += bytes([Method.ZERO])
        part.methods.append("zero")
        return
    flat = levels.reshape(-1)
    candidates = _without_context(flat, coder)
    best = min(candidates, key=lambda name: len(candidates[name][1]), default="")
    sparse = (flat == 0).mean() >= 1 / 2
    spread = _CONTEXT_SPREAD if sparse else _DENSE_SPREAD
    if coder == "auto" and np.ptp(flat) <= spread:
        smallest = len(candidates[best][1]) if best else levels.size * 8
        plan = _context_plan(levels, span) if levels.size <= context_levels else None
        is_large = sparse and levels.size > min(_SMALL_LEVELS, context_levels)
        wide = plan_wide(levels.astype(np.int32), span.blocks) if is_large else None
        # What decodes fifteen times faster may take a little more.
        if plan and wide and wide.cost_bytes <= _WIDE_SURPLUS * plan.cost_bytes:
            plan = None
        if plan and plan.cost_bytes < smallest:
            _add_context(part, levels, plan)
            return
        if plan is None and wide and wide.cost_bytes < smallest:
            _add_wide(part, levels, wide)
            return
    if not best:
        raise RuntimeError("no coder takes levels this large")
    method, coded = candidates[best]
    part.head += bytes([method]) + number(len(coded))
    part.streams.append(coded)
    part.methods.append(best)


def _without_context(flat: np.ndarray, coder: Coder) -> dict[str, tuple[int, bytes]]:
    """The streams of the coders that look at one level at a time, by name, each with its method."""
    candidates = {}
    # With up to 2^14 symbols every code fits into the 15 bits that a decoder takes.
    if np.ptp(flat) < 1 << 14:
        candidates["huffman"] = (Method.HUFFMAN, huffman_stream(flat, fixed=coder == "fixed"))
    if (flat == 0).mean() > 1 / 2:
        candidates["runs"] = (Method.RUNS, runs_stream(flat, fixed=coder == "fixed"))
    if flat.min() >= 0 and flat.max() <= 255:
        data = flat.astype(np.uint8).tobytes()
        candidates["bytes"] = (Method.RAW, data) if coder != "auto" else code_bytes(data, quick=True)
    return candidates


def _add_context(part: _Part, levels: np.ndarray, plan: ContextPlan) -> None:
    shape = plan.shape
    part.head += bytes([Method.CONTEXT | _TRANSPOSED * plan.transposed, shape.classes])
    part.head += number(shape.row_group) + number(shape.group) + number(shape.unit)
    part.contexts.append((levels.astype(np.int32), plan))
    part.methods.append("context")


def _add_wide(part: _Part, levels: np.ndarray, plan: WidePlan) -> None:
    shape, coded = plan.shape, wide_stream(levels.astype(np.int32), plan)
    part.head += bytes([Method.WIDE | _TRANSPOSED * plan.transposed, shape.classes])
    part.head += number(shape.group) + bytes(shape.weights) + number(len(coded))
    part.streams.append(coded)
    part.methods.append("wide")


def _context_plan(levels: np.ndarray, span: TensorSpan) -> ContextPlan | None:
    plan = plan_context(levels.astype(np.int32), span.blocks)
    # Half of what a decoder allows: 16 bytes each on the device.
    return plan if count_of(plan.shape) <= _CONTEXT_COUNTS else None
