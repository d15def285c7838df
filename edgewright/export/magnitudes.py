"""Roots and logarithms, as of spectra: they and what they are taken of stay float32 in 8 bits.

Squares, and what a logarithm is taken of, are spread over several powers of ten: one step of 8 bits over all of their
range is more than most of them. Operators are named as ONNX and LiteRT name them.
"""

from collections.abc import Mapping, Sequence

from edgewright.export.scaling import ScalingNode

__all__ = ["steps_to_magnitudes"]

_SQUARES = frozenset(
    {"ADD", "MUL", "POW", "SQUARE", "SUM", "REDUCESUM", "REDUCESUMSQUARE", "MAX", "MAXIMUM", "CLIP", "RESHAPE"}
)
_FILTER_BANK = {"SQRT", "FULLY_CONNECTED", "BATCH_MATMUL", "MATMUL", "GEMM", "TRANSPOSE", "SQUEEZE", "UNSQUEEZE"}
_PASSED: Mapping[str, frozenset[str]] = {"SQRT": _SQUARES, "LOG": _SQUARES | _FILTER_BANK}
"""What is gone through from each, back to what holds the numbers in a range of their own."""


def steps_to_magnitudes(steps: Sequence[ScalingNode]) -> list[ScalingNode]:
    """Those from squares or a filter bank to a root or a logarithm, both ends with them; ``steps`` are in order."""
    selected_steps: list[ScalingNode] = []
    passed: dict[str, frozenset[str]] = {}  # by the value that is read
    for step in reversed(steps):
        kind = step.kind.upper()
        ways = [passed[name] for name in step.results if name in passed and kind in passed[name]]
        if kind in _PASSED:
            ways.append(_PASSED[kind])
        if ways:
            selected_steps.append(step)
            for value in step.values:
                passed[value] = passed.get(value, frozenset()).union(*ways)
    return selected_steps[::-1]
