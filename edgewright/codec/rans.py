"""Asymmetric numeral systems for binary decisions (rANS; Duda, arXiv 1311.2540): the encoder."""

import numpy as np

from edgewright_runtime.codec.rans import PROBABILITY_BITS, STATE_BYTES, STATE_FLOOR, WORD_BITS

__all__ = ["BitCost", "RansEncoder"]

_ONE = 1 << PROBABILITY_BITS


class RansEncoder:
    """Collects bits with their probabilities; `finish` writes them, last first, as a decoder undoes them."""

    def __init__(self) -> None:
        self._probabilities: list[np.ndarray] = []
        self._bits: list[np.ndarray] = []

    def bits(self, probabilities: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
        """Take (M,) bits with their probabilities of a 1, in 1..65535; returns the bits."""
        if known is None:
            raise ValueError("an encoder must be told the bits")
        self._probabilities.append(probabilities)
        self._bits.append(known)
        return known

    def finish(self) -> bytes:
        """The stream: the last state, then 16-bit words in the order in which they will be read."""
        if not self._bits:
            return STATE_FLOOR.to_bytes(STATE_BYTES, "little")
        ones = np.concatenate(self._probabilities)
        bits = np.concatenate(self._bits).astype(bool)
        # Last bits first: what is encoded last is decoded first.
        frequencies = np.where(bits, ones, _ONE - ones)[::-1].tolist()
        starts = np.where(bits, 0, ones)[::-1].tolist()
        state, words = STATE_FLOOR, []
        for frequency, start in zip(frequencies, starts, strict=True):
            # Beyond this the step below would leave [2^31, 2^47), the range in which a decoder can tell when to read.
            if state >= frequency << (STATE_FLOOR.bit_length() - 1):
                words.append(state & 0xFFFF)
                state >>= WORD_BITS
            # C(x) = floor(x / f) * 2^16 + x mod f + start; the decoder's step is its inverse.
            quotient, remainder = divmod(state, frequency)
            state = (quotient << PROBABILITY_BITS) + remainder + start
        return state.to_bytes(STATE_BYTES, "little") + np.array(words[::-1], dtype="<u2").tobytes()


class BitCost:
    """Count what the bits would take, without writing them: for choosing between layouts."""

    def __init__(self) -> None:
        self.cost_bits = 0.0

    def bits(self, probabilities: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
        """Add the information of (M,) bits under their probabilities; returns the bits."""
        if known is None:
            raise ValueError("a cost is of bits that are known")
        right = np.where(known.astype(bool), probabilities, _ONE - probabilities)
        self.cost_bits -= float(np.log2(right / _ONE).sum())
        return known
