"""Whole numbers of less than a byte, as every format here packs them: from the least significant bit of a byte upward.

>>> unpacked(np.array([0x21, 0x43], np.uint8), bits=4).tolist()
[1, 2, 3, 4]
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["unpacked"]


def unpacked(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """(..., bytes) to (..., numbers), unsigned; a number may lie across two bytes, what is left at the end is none."""
    fields = np.unpackbits(packed, axis=-1, bitorder="little")
    count = fields.shape[-1] // bits
    fields = fields[..., : count * bits].reshape(*fields.shape[:-1], count, bits)
    numbers = np.zeros(fields.shape[:-1], np.uint8)
    # Place by place, in bytes: of weights there are millions.
    for place in range(bits):
        numbers |= fields[..., place] << place
    return numbers
