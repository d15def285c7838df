"""Asymmetric numeral systems for binary decisions (rANS; Duda, arXiv 1311.2540): the device's half, decoding.

Probabilities are integers out of 2^16, so that every machine decodes the same bits.
"""

from __future__ import annotations

import sys
from array import array

import numpy as np

from edgewright_runtime.errors import IntegrityError

__all__ = ["PROBABILITY_BITS", "STATE_BYTES", "STATE_FLOOR", "WORD_BITS", "RansDecoder", "WorkLimitError"]

PROBABILITY_BITS = 16
WORD_BITS = 16
# The state lies in [2^31, 2^47): 15 bits more than a probability has, so that rounding costs nothing measurable.
STATE_FLOOR = 1 << 31
STATE_BYTES = 6


# A call takes some 40 microseconds, however few bits it asks for. The most that real weights were seen to take is 9 a
# byte, of a permutation matrix; what stands far below needs no more than the first number.
_FREE_CALLS = 1 << 17
_CALLS_PER_BYTE = 16


class WorkLimitError(IntegrityError):
    """A stream whose few bytes ask for more work than a device can be expected to do for them."""


class RansDecoder:
    """Read the bits that an encoder wrote, given the same probabilities in the same order.

    ``data`` is the state (6 bytes, little-endian) and then 16-bit words. Memory is twice the data's. Bits that are all
    but certain take time and no data: beside ``free_calls``, `bits` may be called as often as the data's length allows.
    """

    def __init__(self, data: bytes, free_calls: int = 0) -> None:
        if len(data) < STATE_BYTES or len(data) % 2:
            raise IntegrityError(f"coded stream of {len(data)} bytes: too short, or not whole 16-bit words")
        self._state = int.from_bytes(data[:STATE_BYTES], "little")
        if not STATE_FLOOR <= self._state < STATE_FLOOR << WORD_BITS:
            raise IntegrityError("coded stream starts with a state outside its range")
        # array reads in this machine's byte order; the file is little-endian.
        words = array("H", data[STATE_BYTES:])
        if sys.byteorder == "big":
            words.byteswap()
        self._words = iter(words)
        self._calls_left = free_calls + _FREE_CALLS + _CALLS_PER_BYTE * len(data)

    def bits(self, probabilities: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
        """The next bits, (M,) int64, where ``probabilities`` (M,) are those of a 1, in 1..65535.

        ``known`` is the encoder's half of the same call and must be None here.

        Raises:
            IntegrityError: the stream ended before its last bit.
            WorkLimitError: it was called more often than the data's length allows.
        """
        if known is not None:
            raise ValueError("a decoder is not told the bits")
        self._calls_left -= 1
        if self._calls_left < 0:
            raise WorkLimitError("coded stream takes more steps to decode than its length allows")
        state, words = self._state, self._words
        out: list[int] = []
        # A loop of Python over every bit: a local name spares a look-up each time.
        append = out.append
        try:
            for probability in probabilities.tolist():
                # A 1 has the low numbers of the 2^16, a 0 those from its probability on.
                low = state & 0xFFFF
                if low < probability:
                    append(1)
                    state = probability * (state >> 16) + low
                else:
                    append(0)
                    state = (65536 - probability) * (state >> 16) + low - probability
                if state < STATE_FLOOR:
                    state = (state << 16) | next(words)
        except StopIteration:
            raise IntegrityError("coded stream ended before its last symbol") from None
        self._state = state
        return np.array(out, dtype=np.int64)

    def finish(self) -> None:
        """Raise `IntegrityError` unless every word was used and the state is the one that encoding began with."""
        if self._state != STATE_FLOOR or next(self._words, None) is not None:
            raise IntegrityError("coded stream does not end where its symbols end")
