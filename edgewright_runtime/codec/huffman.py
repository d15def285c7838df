"""Canonical Huffman codes (Huffman 1952; Schwartz and Kallick 1964), decoded many blocks at a time.

The symbols are cut into blocks of `BLOCK_SYMBOLS`, and the length of each block in bits is stored: numpy then decodes
one symbol of every block at each step.
"""

from __future__ import annotations

import numpy as np

from edgewright_runtime.errors import IntegrityError

__all__ = ["BLOCK_SYMBOLS", "MAX_LENGTH", "canonical_codes", "decode_symbols"]

MAX_LENGTH = 15
BLOCK_SYMBOLS = 4096


def canonical_codes(lengths: np.ndarray) -> np.ndarray:
    """The code of each symbol, (A,) int64, from the (A,) code lengths (0 for a symbol that does not occur).

    Raises:
        IntegrityError: a length above `MAX_LENGTH`, or lengths that no prefix code has.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    used = lengths[lengths > 0]
    if not len(used) or lengths.max() > MAX_LENGTH:
        raise IntegrityError(f"Huffman code lengths must be 1 to {MAX_LENGTH}")
    # Kraft's inequality: more would make codes overlap.
    if int((1 << (MAX_LENGTH - used)).sum()) > 1 << MAX_LENGTH:
        raise IntegrityError("Huffman code lengths belong to no prefix code")
    codes = np.zeros(len(lengths), dtype=np.int64)
    # Canonical: by length, then by symbol, so that the lengths alone give the codes.
    order = np.lexsort((np.arange(len(lengths)), lengths))
    order = order[lengths[order] > 0]
    steps = 1 << (MAX_LENGTH - lengths[order])
    # Codes as numbers of MAX_LENGTH bits: each begins where the code before it ends.
    aligned = np.concatenate([[0], np.cumsum(steps)[:-1]])
    codes[order] = aligned >> (MAX_LENGTH - lengths[order])
    return codes


def decode_symbols(data: bytes, lengths: np.ndarray, block_bits: np.ndarray, count: int) -> np.ndarray:
    """Decode ``count`` symbols, (count,) int32, from blocks of the given sizes in bits.

    Memory: 8 bytes a symbol and 9 bytes a byte of data.

    Raises:
        IntegrityError: a code that no symbol has, or blocks that do not end where they should.
    """
    symbol_of, length_of = _lookup(lengths)
    ends = np.cumsum(block_bits.astype(np.int64))
    if len(block_bits) != -(-count // BLOCK_SYMBOLS) or (len(ends) and -(-int(ends[-1]) // 8) != len(data)):
        raise IntegrityError("Huffman blocks do not cover the coded data")
    # A corrupt block may run over its end by its symbols' longest codes, and no further.
    padded = np.frombuffer(data + bytes(BLOCK_SYMBOLS * MAX_LENGTH // 8 + 4), dtype=np.uint8).astype(np.int64)
    position = ends - block_bits
    out = np.zeros((BLOCK_SYMBOLS, len(ends)), dtype=np.int32)
    in_last = count - (len(ends) - 1) * BLOCK_SYMBOLS
    for step in range(min(BLOCK_SYMBOLS, count)):
        # Only the last block may be short.
        active = slice(0, len(ends) if step < in_last else len(ends) - 1)
        at = position[active]
        byte = at >> 3
        # Three bytes hold a code of 15 bits wherever in the first byte it begins: 7 + 15 < 24.
        window = (padded[byte] << 16) | (padded[byte + 1] << 8) | padded[byte + 2]
        code = (window >> (24 - MAX_LENGTH - (at & 7))) & ((1 << MAX_LENGTH) - 1)
        out[step, active] = symbol_of[code]
        position[active] = at + length_of[code]
    if not np.array_equal(position, ends):
        raise IntegrityError("a Huffman block does not end where its symbols end")
    symbols = out.T.reshape(-1)[:count]
    if count and symbols.min() < 0:
        raise IntegrityError("a Huffman code in the data belongs to no symbol")
    return symbols


def _lookup(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    codes = canonical_codes(lengths)
    symbol_of = np.full(1 << MAX_LENGTH, -1, dtype=np.int32)
    # A code of no symbol (-1) must move on as well; it is refused at the end, for all blocks together.
    length_of = np.full(1 << MAX_LENGTH, MAX_LENGTH, dtype=np.int64)
    for symbol in np.flatnonzero(lengths).tolist():
        shift = MAX_LENGTH - int(lengths[symbol])
        # A code stands for every number of MAX_LENGTH bits that begins with it.
        window = slice(int(codes[symbol]) << shift, (int(codes[symbol]) + 1) << shift)
        symbol_of[window] = symbol
        length_of[window] = lengths[symbol]
    return symbol_of, length_of
