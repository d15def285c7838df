"""One stream of levels or bytes, coded in each way that a ``.ewz`` file knows; the smallest is taken."""

import lzma
import zlib
from dataclasses import dataclass

import numpy as np

from edgewright.codec.huffman import code_lengths, encode_symbols
from edgewright.codec.rans import BitCost
from edgewright_runtime.codec.context_model import LevelShape, code_levels
from edgewright_runtime.codec.ewz import DICTIONARY, Method, lzma_filters

__all__ = [
    "ContextPlan",
    "code_bytes",
    "huffman_stream",
    "number",
    "plan_context",
    "runs_stream",
    "signed",
]

# One less than powers of two: the fixed code of a run then fills 4 to 8 bits.
_RUN_LIMITS = (15, 31, 63, 127, 255)
# LZMA's own default, then without position, for words of 4 bytes, and without any context.
_LZMA_SETTINGS = tuple(lc + 9 * (lp + 5 * pb) for lc, lp, pb in ((3, 0, 2), (3, 0, 0), (0, 2, 2), (0, 0, 0)))
# The strongest search takes a second a megabyte.
_LARGE_BYTES = 1 << 22
_UNIT = 64
_FINE_LEVELS = 1 << 17
_TRIAL_LEVELS = 1 << 16
_FEW = 1 << 14


def number(value: int) -> bytes:
    """An unsigned LEB128 number."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def signed(value: int) -> bytes:
    """A signed number, zigzag in LEB128."""
    return number(2 * value if value >= 0 else -2 * value - 1)


def code_bytes(data: bytes, *, quick: bool = False) -> tuple[int, bytes]:
    """The smallest of raw, deflate with the shared dictionary, and LZMA under a few settings, with its method."""
    # Negative window bits: raw deflate, without zlib's header and checksum.
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=DICTIONARY)
    candidates = [(Method.RAW, data), (Method.DEFLATE, packer.compress(data) + packer.flush())]
    tried = _LZMA_SETTINGS[: 1 if quick or len(data) > _LARGE_BYTES else None]
    candidates.extend((Method.LZMA, lzma_part(data, settings)) for settings in tried)
    return min(candidates, key=lambda c: len(c[1]))


def lzma_part(data: bytes, settings: int) -> bytes:
    """One byte of settings, then a raw LZMA1 stream."""
    filters: list[dict[str, int]] = [
        {**lzma_filters(settings, len(data))[0], "preset": 6 if len(data) > _LARGE_BYTES else 9 | lzma.PRESET_EXTREME}
    ]
    return bytes([settings]) + lzma.compress(data, format=lzma.FORMAT_RAW, filters=filters)


def huffman_stream(levels: np.ndarray, *, fixed: bool = False) -> bytes:
    """(N,) levels behind one Huffman code, or one of a fixed length; `edgewright_runtime.codec.ewz` has the layout."""
    lowest = int(levels.min())
    symbols = levels.astype(np.int64) - lowest
    counts = np.bincount(symbols)
    lengths = np.full(len(counts), max(1, int(len(counts) - 1).bit_length())) if fixed else code_lengths(counts)
    # Two lengths a byte, which is enough for 15; an odd number is filled up with a zero.
    padded = np.concatenate([lengths, [0]])[: -(-len(lengths) // 2) * 2].reshape(-1, 2)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    table = packer.compress((padded[:, 0] | padded[:, 1] << 4).astype(np.uint8).tobytes()) + packer.flush()
    coded, block_bits = encode_symbols(symbols, lengths)
    head = signed(lowest) + number(len(lengths)) + number(len(table)) + table
    return head + block_bits.tobytes() + coded


def runs_stream(levels: np.ndarray, *, fixed: bool = False) -> bytes:
    """Deep Compression's coding: runs of zeros and the values after them, each behind its own (Huffman) code."""
    at = np.flatnonzero(levels)
    values = levels[at]
    # Zeros before each value; those after the last are known from the tensor's size.
    gaps = np.diff(at, prepend=-1) - 1
    best = b""
    for longest in _RUN_LIMITS:
        fillers, rest = np.divmod(gaps, longest)
        runs = np.full(int(fillers.sum()) + len(at), longest, dtype=np.int64)
        # Each value's own run ends its group; the fillers before it keep the longest.
        runs[np.cumsum(fillers + 1) - 1] = rest
        head = number(longest) + number(len(runs)) + number(len(values))
        coded = head + (huffman_stream(runs, fixed=fixed) + huffman_stream(values, fixed=fixed) if len(at) else b"")
        best = coded if not best or len(coded) < len(best) else best
    return best


@dataclass(frozen=True)
class ContextPlan:
    """How a tensor is laid out for the context coder, and what that takes by its own model's reckoning."""

    shape: LevelShape
    transposed: bool
    cost_bytes: float


def plan_context(levels: np.ndarray, blocks: tuple[int, ...]) -> ContextPlan:
    """Both orientations of (R, C) levels with each repeating block length, tried on a part; returns the cheapest."""
    candidates = [*blocks, _period(levels)]
    tried = []
    for transposed in (False, True) if levels.shape[0] > 1 else (False,):
        turned = levels.T if transposed else levels
        rows = max(1, _TRIAL_LEVELS // turned.shape[1]) if np.count_nonzero(levels) > _FEW else turned.shape[0]
        first = max(0, (turned.shape[0] - rows) // 2)
        part = turned[first : first + rows]
        for block in sorted({1, *(b for b in candidates if 1 < b < levels.shape[1])}):
            # A block repeats along the columns as stored, which are the rows of the transpose.
            groups = (block, 1) if transposed else (1, block)
            # Parts differ in how much they hold; what counts is what the layout makes of it.
            share = (_planned(part, transposed, *groups).cost_bytes + 1) / (_entropy_bytes(part) + 1)
            tried.append((share, transposed, *groups))
    _, transposed, row_group, group = min(tried)
    return _planned(levels.T if transposed else levels, transposed, row_group, group)


def _planned(turned: np.ndarray, transposed: bool, row_group: int, group: int) -> ContextPlan:
    classes = max(1, int(np.abs(turned).max(initial=0)).bit_length())
    # Counts are brought up to date after each unit: small tensors have to learn quickly.
    unit = _UNIT if turned.size < _FINE_LEVELS else 2 * _UNIT
    shape = LevelShape(turned.shape[0], turned.shape[1], min(row_group, turned.shape[0]), group, unit, classes)
    cost = BitCost()
    code_levels(cost, shape, turned)
    return ContextPlan(shape, transposed, cost.cost_bits / 8)


def _entropy_bytes(levels: np.ndarray) -> float:
    """What an ideal code without context would take."""
    _, counts = np.unique(levels, return_counts=True)
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8)


def _period(levels: np.ndarray) -> int:
    """The lag at which the columns' densities resemble themselves most: an image row, a kernel, a channel."""
    density = (levels != 0).mean(0)
    density = density - density.mean()
    # Constant density has no period; `any` is of what differs from the mean.
    if levels.shape[1] < 8 or not density.any():
        return 1
    # Autocorrelation by Wiener-Khinchin, padded to twice the length so that it does not wrap around.
    spectrum = np.abs(np.fft.rfft(density, 2 * len(density))) ** 2
    likeness = np.fft.irfft(spectrum)[4 : max(5, len(density) // 2)]
    return 4 + int(np.argmax(likeness))
