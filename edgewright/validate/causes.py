"""Why a technique that did what it does brought less than it seems to: what a format or a processor makes of it."""

from edgewright.artifact import Precision
from edgewright.measurement import Footprint, Performance
from edgewright.recipe import Technique

__all__ = ["causes"]

_INT8 = {Precision.INT8, Precision.DYNAMIC_INT8}
# Shares below which nothing has changed that needs a reason.
_NOTABLE = 0.05
_SAME_SIZE = 0.01


def causes(
    technique: Technique, precision: Precision, before: Footprint, after: Footprint, performance: Performance
) -> tuple[str, ...]:
    """Each reason in a few words; ``precision`` is that of the technique's result."""
    timed = performance.verdict != "not measured"
    reasons = []
    zeros_before, zeros_after = (1 - (weights.non_zero_fraction or 0) for weights in (before, after))
    if zeros_after > zeros_before + _NOTABLE and after.size_bytes > (1 - _SAME_SIZE) * before.size_bytes:
        reasons.append(
            f"{zeros_after:.0%} of the weights are zero, and the format stores a zero like any value: on disk and in "
            "latency dense zeros save nothing"
        )
    if precision in _INT8 and performance.verdict == "slower":
        reasons.append(f"{precision.value} is slower than the weights before it on this processor")
    share = after.weights / before.weights if before.weights else 1.0
    # Fewer multiply-accumulates where there are fewer weights; the files tell the weights only.
    if technique.removes_operations and share < 1 - _NOTABLE and timed and performance.verdict != "faster":
        reasons.append(f"a smaller network (weights x{share:.2f}) did not lower latency: at this size other costs lead")
    return tuple(reasons)
