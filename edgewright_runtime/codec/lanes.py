"""Asymmetric numeral systems in many lanes at once (interleaved rANS; Giesen, arXiv 1402.3392): the device's half.

Decision i of a call is decoded by lane i modulo the number of lanes, so numpy decodes one decision of every lane at
each step. Probabilities are integers out of 2^16. What a lane's state begins with is free to say something: here it
holds `SPARE_BITS` bits of payload, so that lanes cost nothing.
"""

from __future__ import annotations

import numpy as np

from edgewright_runtime.errors import IntegrityError

__all__ = ["MAX_LANES_LOG2", "SPARE_BITS", "STATE_BYTES", "LaneDecoder"]

SPARE_BITS = 20
# The state lies in [2^20, 2^36): four bits more than a probability has, and rounding costs 0.01%.
FLOOR = 1 << SPARE_BITS
STATE_BYTES = 5
MAX_LANES_LOG2 = 12


class LaneDecoder:
    """Read the bits that an encoder wrote, given the same probabilities in the same calls.

    ``states`` (K * 5 bytes) and 16-bit ``words``, both little-endian.
    """

    def __init__(self, states: bytes, words: bytes) -> None:
        if not states or len(states) % STATE_BYTES or len(words) % 2:
            raise IntegrityError("coded lanes: states or words are not whole")
        padded = np.zeros((len(states) // STATE_BYTES, 8), dtype=np.uint8)
        # Five bytes a state: numpy reads eight.
        padded[:, :STATE_BYTES] = np.frombuffer(states, np.uint8).reshape(-1, STATE_BYTES)
        self._states = padded.reshape(-1).view("<u8").astype(np.int64)
        if int(self._states.min()) < FLOOR or int(self._states.max()) >= FLOOR << 16:
            raise IntegrityError("coded lanes start with a state outside its range")
        self._words = np.frombuffer(words, "<u2").astype(np.int64)
        self._at = 0

    def bits(self, probabilities: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
        """The next bits, (M,) bool, where ``probabilities`` (M,) int64 are those of a 1, in 1..65535.

        ``known`` is the encoder's half of the same call and must be None here.

        Raises:
            IntegrityError: the words ended before the last bit.
        """
        if known is not None:
            raise ValueError("a decoder is not told the bits")
        states, lanes = self._states, len(self._states)
        out = np.empty(len(probabilities), dtype=bool)
        for start in range(0, len(probabilities), lanes):
            wanted = probabilities[start : start + lanes]
            state = states[: len(wanted)]
            low = state & 0xFFFF
            bit = low < wanted
            out[start : start + lanes] = bit
            # Of a 1: p * (x >> 16) + low; of a 0: (1 - p) * (x >> 16) + low - p.
            high = state >> 16
            ones = wanted * high + low
            state[:] = np.where(bit, ones, (high << 16) + (low << 1) - wanted - ones)
            # Renormalization. The words come in the order of the lanes, as the encoder wrote them.
            short = np.flatnonzero(state < FLOOR)
            if len(short):
                taken = self._words[self._at : self._at + len(short)]
                if len(taken) < len(short):
                    raise IntegrityError("coded lanes ended before their last symbol")
                state[short] = (state[short] << 16) | taken
                self._at += len(short)
        return out

    def finish(self) -> np.ndarray:
        """The payload of the lanes, (K * 20,) bool; called after the last bit.

        Raises:
            IntegrityError: a word was not used, or a state is none that encoding begins with.
        """
        # An encoder begins at FLOOR plus 20 bits of payload, so a decoder must end below twice FLOOR.
        if self._at != len(self._words) or int(self._states.max()) >= 2 * FLOOR:
            raise IntegrityError("coded lanes do not end where their symbols end")
        held: np.ndarray = (self._states[:, None] >> np.arange(SPARE_BITS)) & 1
        return held.reshape(-1).astype(bool)
