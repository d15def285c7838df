"""Asymmetric numeral systems in many lanes at once (interleaved rANS; Giesen, arXiv 1402.3392): the encoder."""

import numpy as np

from edgewright_runtime.codec.lanes import FLOOR, SPARE_BITS, STATE_BYTES

__all__ = ["LaneCost", "LaneEncoder"]


class LaneEncoder:
    """Collects bits with their probabilities; `finish` writes them, last first, as a decoder undoes them."""

    def __init__(self) -> None:
        self._calls: list[tuple[np.ndarray, np.ndarray]] = []

    def bits(self, probabilities: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
        """Take (M,) bits with their probabilities of a 1, in 1..65535; returns the bits."""
        if known is None:
            raise ValueError("an encoder must be told the bits")
        self._calls.append((probabilities, known))
        return known

    def finish(self, lanes: int, payload: np.ndarray) -> tuple[bytes, bytes]:
        """States and words of ``lanes`` lanes, whose first states hold ``payload``, at most 20 bits a lane."""
        spare = np.zeros(lanes * SPARE_BITS, dtype=np.int64)
        spare[: len(payload)] = payload
        # Any state in [FLOOR, 2 FLOOR) may begin: the decoder ends there, and reads the payload from it.
        states = FLOOR + (spare.reshape(lanes, SPARE_BITS) << np.arange(SPARE_BITS)).sum(1)
        words: list[np.ndarray] = []
        for probabilities, known in reversed(self._calls):
            # Last bits first (a stack): decision i is lane i modulo lanes, and the short step, if any, comes first.
            for start in range((len(known) - 1) // lanes * lanes, -1, -lanes):
                ones, bits = probabilities[start : start + lanes], known[start : start + lanes]
                state = states[: len(bits)]
                frequency = np.where(bits, ones, 65536 - ones)
                # Beyond this the step below would leave [FLOOR, 2^16 FLOOR), by which a decoder knows when to read.
                full = np.flatnonzero(state >= frequency << SPARE_BITS)
                words.append(state[full] & 0xFFFF)
                state[full] >>= 16
                quotient, remainder = np.divmod(state, frequency)
                # Of 2^16 slots a 1 has the first `ones`, a 0 the rest.
                state[:] = (quotient << 16) + remainder + np.where(bits, 0, ones)
        # A state is below 2^36: five bytes of its eight.
        packed = states.astype("<u8").view(np.uint8).reshape(lanes, 8)[:, :STATE_BYTES].tobytes()
        ordered = np.concatenate(words[::-1]) if words else np.zeros(0)
        return packed, ordered.astype("<u2").tobytes()


class LaneCost:
    """Count what the bits would take, without writing them."""

    def __init__(self) -> None:
        self.cost_bits = 0.0

    def bits(self, probabilities: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
        """Add the information of (M,) bits under their probabilities; returns the bits."""
        if known is None:
            raise ValueError("a cost is of bits that are known")
        self.cost_bits -= float(np.log2(np.where(known, probabilities, 65536 - probabilities) / 65536).sum())
        return known
