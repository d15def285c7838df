"""Real numbers that become whole ones, as places in a table: what computes them stays float32 in fewer bits.

Half precision has no whole number above 2,048 exactly, and 8 bits have 256: an id would be another one, and a place in
a table the next. ``PASSING`` are operators in whose results such numbers are still exact, as ONNX, LiteRT and Core ML
call them; a layer's result that is rounded to a place is not an id.
"""

from collections.abc import Iterable, Sequence

from edgewright.export.scaling import ScalingNode

__all__ = ["PASSING", "steps_to_whole_numbers"]

PASSING = frozenset({
    *("ABS", "ADD", "CAST", "CEIL", "CLIP", "CONCAT", "CONCATENATION", "DIV", "EXPAND_DIMS", "FLOOR", "FLOOR_DIV"),
    *("FLOOR_MOD", "GATHER", "GATHER_ND", "IDENTITY", "MAX", "MAXIMUM", "MIN", "MINIMUM", "MOD", "MUL", "NEG"),
    *("REAL_DIV", "RELU", "RESHAPE", "ROUND", "SELECT", "SELECT_V2", "SIGN", "SLICE", "SLICE_BY_INDEX"),
    *("SLICE_BY_SIZE", "SPLIT", "SPLIT_V", "SQUEEZE", "STACK", "STRIDED_SLICE", "SUB", "TRANSPOSE", "UNSQUEEZE"),
    "WHERE",
})  # fmt: skip


def steps_to_whole_numbers(steps: Sequence[ScalingNode], rounded: Iterable[str]) -> list[ScalingNode]:
    """Those that compute the values ``rounded``, which are cast to whole numbers; ``steps`` are in order."""
    wanted, selected_steps = set(rounded), list[ScalingNode]()
    # Backward: a step is met after all that read what it gives.
    for step in reversed(steps):
        if wanted & set(step.results) and step.kind.upper() in PASSING:
            selected_steps.append(step)
            wanted.update(step.values)
    return selected_steps[::-1]
