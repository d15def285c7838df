"""Control flow that is decided at import: a branch that shapes choose, a loop whose rounds are known and not too many.

Each handler follows the operator of the same name in the ONNX operator specification (ai.onnx).
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch

from edgewright.intake.builder import Argument, Builder, Op, Operand, Result, operand, refuse

__all__ = ["HANDLERS"]

_MAX_ROUNDS = 256
"""What a loop does stands in the graph as often as it goes round."""
_MAX_ROUNDS_OF_ALL = 8192
"""Loops within loops: each round takes some milliseconds to write."""

Inner = Callable[[Any, Sequence[Argument]], list[Argument]]
"""Takes a graph in another one and what it is given; returns what it returns."""


def if_(b: Builder, op: Op, inner: Inner) -> Result:
    """If, whose condition follows from shapes and constants alone."""
    condition = op.input(0)
    if not isinstance(condition, torch.Tensor):
        raise refuse(op, "its condition depends on data")
    return tuple(inner(op.attributes["then_branch" if bool(condition) else "else_branch"], ()))


def loop(b: Builder, op: Op, inner: Inner) -> Result:
    """Loop, whose end follows from shapes and constants alone: written out round by round."""
    most, going, carried = _limit(op), _constant(op, op.input(1)), list(op.inputs[2:])
    gathered: list[list[Operand]] = [[] for _ in range(len(op.outputs) - len(carried))]
    rounds = 0
    while going and (most is None or rounds < most):
        if rounds == _MAX_ROUNDS:
            raise refuse(op, f"more than {_MAX_ROUNDS} rounds; so many are written out")
        _count_round(b, op)
        # The condition that a body is given is true, or it would not run.
        condition, *results = inner(op.attributes["body"], (torch.tensor(rounds), torch.tensor(True), *carried))
        going, rounds = _constant(op, condition), rounds + 1
        carried = results[: len(carried)]
        for column, value in zip(gathered, results[len(carried) :], strict=True):
            column.append(cast(Operand, value))
    # Stacked outputs have a first axis of that many rounds; of none, no tensor says the others.
    if gathered and not rounds:
        raise refuse(op, "no round at all, whose outputs have no shape")
    return (*carried, *(b.call(torch.stack, column, 0) for column in gathered))


def scan(b: Builder, op: Op, inner: Inner) -> Result:
    """Scan over an axis of known length: written out step by step."""
    # The scanned inputs stand last, the states before them.
    count = op.attributes["num_scan_inputs"]
    states, sequences = (
        list(op.inputs[:-count]),
        [operand(op, i) for i in range(len(op.inputs) - count, len(op.inputs))],
    )
    axes = op.attributes.get("scan_input_axes") or [0] * count
    backwards = op.attributes.get("scan_input_directions") or [0] * count
    steps = b.shape(sequences[0])[axes[0]]
    if not isinstance(steps, int) or not 0 < steps <= _MAX_ROUNDS:
        raise refuse(op, f"{steps} steps; up to {_MAX_ROUNDS} are written out")
    gathered: list[list[Operand]] = [[] for _ in range(len(op.outputs) - len(states))]
    for step in range(steps):
        _count_round(b, op)
        # A body gets one step without its axis; backwards the last one first.
        parts = [
            b.call(torch.select, x, axis, steps - 1 - step if backward else step)
            for x, axis, backward in zip(sequences, axes, backwards, strict=True)
        ]
        results = inner(op.attributes["body"], (*states, *parts))
        states = results[: len(states)]
        for column, value in zip(gathered, results[len(states) :], strict=True):
            column.append(cast(Operand, value))
    return (*states, *_stacked(b, op, gathered))


def _count_round(b: Builder, op: Op) -> None:
    if b.rounds == _MAX_ROUNDS_OF_ALL:
        raise refuse(op, f"more than {_MAX_ROUNDS_OF_ALL} rounds of all loops together; so many are written out")
    b.rounds += 1


def _stacked(b: Builder, op: Op, gathered: list[list[Operand]]) -> list[Operand]:
    axes = op.attributes.get("scan_output_axes") or [0] * len(gathered)
    backwards = op.attributes.get("scan_output_directions") or [0] * len(gathered)
    return [
        b.call(torch.stack, column[::-1] if backward else column, axis)
        for column, axis, backward in zip(gathered, axes, backwards, strict=True)
    ]


def _limit(op: Op) -> int | None:
    most = op.input(0)
    if most is None:
        return None
    if not isinstance(most, torch.Tensor):
        raise refuse(op, "how often it goes round depends on data or on the batch")
    return int(most.reshape(-1)[0])


def _constant(op: Op, condition: Argument) -> bool:
    if condition is None:
        return True
    if not isinstance(condition, torch.Tensor):
        raise refuse(op, "whether it goes on depends on data")
    return bool(condition.reshape(-1)[0])


HANDLERS: dict[str, Callable[[Builder, Op, Inner], Result]] = {"If": if_, "Loop": loop, "Scan": scan}
