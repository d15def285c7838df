"""Recurrent operators. Gates of an LSTM stand in the order input, forget, output, cell."""

from collections.abc import Callable

import torch
from torch import Tensor

from edgewright.errors import UnsupportedError
from edgewright.export.mil_operators.arguments import Arguments

__all__ = ["OPERATORS"]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}


def _activation(a: Arguments, name: str, default: str) -> Callable[[Tensor], Tensor]:
    kind = a.text(name, default)
    if kind not in _ACTIVATIONS:
        raise UnsupportedError(f"the Core ML activation '{kind}' of a recurrent operator is not evaluated")
    return _ACTIVATIONS[kind]


def _lstm(a: Arguments) -> list[Tensor]:
    """x (steps, batch, inputs) to every state or the last one, the last hidden state and the last cell."""
    if "peephole" in a or "clip" in a:
        raise UnsupportedError("the Core ML operator 'lstm' with peepholes or a clipped cell is not evaluated")
    direction = a.text("direction", "forward")
    both = direction == "bidirectional"
    hidden, cell = (a.tensor(name) for name in ("initial_h", "initial_c"))
    states = [t.chunk(2, dim=1) if both else (t,) for t in (hidden, cell)]
    # A lone direction has the weights without suffix, backwards too; `_back` is the second of two.
    directions = [_one_way(a, "", states[0][0], states[1][0], backwards=direction == "reverse")]
    if both:
        directions.append(_one_way(a, "_back", states[0][1], states[1][1], backwards=True))
    every = torch.cat([way[0] for way in directions], dim=-1)
    last = [torch.cat([way[place] for way in directions], dim=-1) for place in (1, 2)]
    return [every if a.flag("output_sequence") else last[0].unsqueeze(0), *last]


def _one_way(
    a: Arguments, side: str, hidden: Tensor, cell: Tensor, *, backwards: bool
) -> tuple[Tensor, Tensor, Tensor]:
    gate, inner, outer = (
        _activation(a, name, default)
        for name, default in (("recurrent_activation", "sigmoid"), ("cell_activation", "tanh"), ("activation", "tanh"))
    )
    x, input_weight, hidden_weight = a.tensor("x"), a.tensor(f"weight_ih{side}"), a.tensor(f"weight_hh{side}")
    bias = a.optional(f"bias{side}")
    steps = range(len(x) - 1, -1, -1) if backwards else range(len(x))
    outputs: dict[int, Tensor] = {}
    for step in steps:
        sums = x[step] @ input_weight.T + hidden @ hidden_weight.T
        sums = sums if bias is None else sums + bias
        enters, forgets, leaves, new = sums.chunk(4, dim=-1)
        cell = gate(forgets) * cell + gate(enters) * inner(new)
        hidden = gate(leaves) * outer(cell)
        outputs[step] = hidden
    # In the order of the input, in whichever order they were computed.
    return torch.stack([outputs[step] for step in range(len(x))]), hidden, cell


OPERATORS = {"lstm": _lstm}
