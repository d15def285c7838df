"""Canonical Huffman codes (Huffman 1952), written in the blocks that the device decodes side by side."""

import heapq

import numpy as np

from edgewright_runtime.codec.huffman import BLOCK_SYMBOLS, MAX_LENGTH, canonical_codes

__all__ = ["code_lengths", "encode_symbols"]

_CHUNK = 1 << 20


def code_lengths(counts: np.ndarray) -> np.ndarray:
    """(A,) code lengths of at most `MAX_LENGTH` bits for (A,) symbol counts; 0 where a symbol does not occur."""
    counts = np.asarray(counts, dtype=np.int64)
    while True:
        lengths = _unlimited_lengths(counts)
        if lengths.max() <= MAX_LENGTH:
            return lengths
        # Flattening the counts shortens the longest codes and costs the rest next to nothing.
        counts = np.where(counts > 0, (counts + 1) // 2, 0)


def _unlimited_lengths(counts: np.ndarray) -> np.ndarray:
    lengths = np.zeros(len(counts), dtype=np.int64)
    used = np.flatnonzero(counts).tolist()
    # The tree of a single symbol has no edge, but a decoder has to read a bit for each.
    if len(used) == 1:
        lengths[used[0]] = 1
        return lengths
    # The smallest symbol breaks ties: the same counts give the same file on every machine.
    heap = [(int(counts[symbol]), symbol, [symbol]) for symbol in used]
    heapq.heapify(heap)
    while len(heap) > 1:
        first, second = heapq.heappop(heap), heapq.heappop(heap)
        together = first[2] + second[2]
        # Every symbol below the new node lies one level deeper.
        lengths[together] += 1
        heapq.heappush(heap, (first[0] + second[0], min(first[1], second[1]), together))
    return lengths


def encode_symbols(symbols: np.ndarray, lengths: np.ndarray) -> tuple[bytes, np.ndarray]:
    """(N,) symbols to the packed codes and the bits that each block of `BLOCK_SYMBOLS` takes, (B,) uint32."""
    codes = canonical_codes(lengths)
    taken = lengths[symbols]
    starts = np.arange(0, len(symbols), BLOCK_SYMBOLS)
    block_bits = np.add.reduceat(taken, starts).astype("<u4")
    packed, pending = [], np.zeros(0, dtype=np.uint8)
    # In parts: `_bits_of` takes a byte for each bit, and more for its indices.
    for start in range(0, len(symbols), _CHUNK):
        part = slice(start, start + _CHUNK)
        bits = np.concatenate([pending, _bits_of(codes[symbols[part]], taken[part])])
        # Parts do not end on a byte: what is left goes before the next one's bits.
        whole = len(bits) // 8 * 8
        packed.append(np.packbits(bits[:whole]).tobytes())
        pending = bits[whole:]
    packed.append(np.packbits(pending).tobytes())
    return b"".join(packed), block_bits


def _bits_of(codes: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    ends = np.cumsum(lengths)
    bits = np.zeros(int(ends[-1]), dtype=np.uint8)
    for below in range(int(lengths.max())):
        long_enough = np.flatnonzero(lengths > below)
        # One bit of every code at a time, from the lowest, which stands last.
        bits[ends[long_enough] - 1 - below] = (codes[long_enough] >> below) & 1
    return bits
