"""Large tensors for an ``.ewz`` file: the wide context model over many rANS lanes, its layout chosen on a part."""

from dataclasses import dataclass

import numpy as np

from edgewright.codec.lanes import LaneCost, LaneEncoder
from edgewright_runtime.codec.lanes import MAX_LANES_LOG2, SPARE_BITS
from edgewright_runtime.codec.wide_context import (
    LEVELS_PER_LANE,
    MAX_CLASSES,
    MAX_COLUMNS,
    WideShape,
    code_magnitudes,
)

__all__ = ["WidePlan", "plan_wide", "wide_stream"]

# For rows, columns and the columns beside, in sixteenths.
_WEIGHTS = ((16, 16, 0), (14, 14, 4), (12, 10, 8))
_TRIAL_LEVELS = 1 << 18
# A lane takes 12 bits more than it gives back: at most 0.3% of the stream.
_BITS_PER_LANE = 4096


@dataclass(frozen=True)
class WidePlan:
    """How a tensor is laid out for the wide model, and what that takes by its own model's reckoning."""

    shape: WideShape
    transposed: bool
    cost_bytes: float


def plan_wide(levels: np.ndarray, blocks: tuple[int, ...]) -> WidePlan | None:
    """Both orientations of (R, C) levels, each block length and each weighing of evidence, tried on a part.

    None where the levels are too large, or lie in one row alone.
    """
    classes = int(np.abs(levels).max(initial=1)).bit_length()
    # A decoder refuses more.
    if classes > MAX_CLASSES or levels.size > LEVELS_PER_LANE << MAX_LANES_LOG2:
        return None
    tried = []
    for transposed in (False, True):
        turned = levels.T if transposed else levels
        # The model learns from other rows and from columns beside: it needs two of each.
        if not 1 < turned.shape[1] <= MAX_COLUMNS or turned.shape[0] == 1:
            continue
        part = np.abs(turned[: max(1, _TRIAL_LEVELS // turned.shape[1])])
        for group in sorted({1, *(b for b in blocks if 1 < b < turned.shape[1] and not transposed)}):
            for weights in _WEIGHTS:
                shape = WideShape(len(part), part.shape[1], group, classes, weights)
                # Parts of the two orientations hold different numbers of values: compared is the cost of one.
                share = (_cost_bits(part, shape) + 1) / (np.count_nonzero(part) + 1)
                tried.append((share, transposed, group, weights))
    if not tried:
        return None
    _, transposed, group, weights = min(tried)
    turned = np.abs(levels.T if transposed else levels)
    shape = WideShape(turned.shape[0], turned.shape[1], group, classes, weights)
    # A bit for each sign, which is not predicted.
    return WidePlan(shape, transposed, (_cost_bits(turned, shape) + np.count_nonzero(turned)) / 8)


def wide_stream(levels: np.ndarray, plan: WidePlan) -> bytes:
    """Lanes, words and signs of (R, C) levels, as `edgewright_runtime.codec.wide_context.decode_levels` reads them."""
    turned = np.ascontiguousarray(levels.T if plan.transposed else levels)
    encoder = LaneEncoder()
    code_magnitudes(encoder, plan.shape, np.abs(turned))
    flat = turned.reshape(-1)
    signs = flat[flat != 0] < 0
    least = -(-turned.size // LEVELS_PER_LANE)
    wanted = max(least, int(8 * plan.cost_bytes / _BITS_PER_LANE))
    # A power of two, of which the header holds the logarithm.
    lanes = 1 << min(MAX_LANES_LOG2, (wanted - 1).bit_length() if wanted > 1 else 0)
    held = lanes * SPARE_BITS
    # As many signs as the lanes' first states hold; the rest follow the words.
    states, words = encoder.finish(lanes, signs[:held])
    head = bytes([lanes.bit_length() - 1]) + len(words).to_bytes(4, "little")
    return head + states + words + np.packbits(signs[held:]).tobytes()


def _cost_bits(magnitudes: np.ndarray, shape: WideShape) -> float:
    cost = LaneCost()
    code_magnitudes(cost, shape, magnitudes)
    return cost.cost_bits
