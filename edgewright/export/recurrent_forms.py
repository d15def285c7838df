"""Recurrent operations of ATen written step by step, for converters that know them otherwise or not at all.

Equations: https://docs.pytorch.org/docs/stable/generated/torch.nn.GRU.html, and likewise of LSTM and RNN. The products
with the inputs of all steps are one product each. Imports torch.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

__all__ = ["RECURRENT_FORMS"]

Tensor = torch.Tensor
CellStep = Callable[[Tensor, tuple[Tensor, ...], Sequence[Tensor]], tuple[Tensor, ...]]
"""(gates of the input, state, weights of the state) to the next state, whose first part is the output."""


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    product = torch.matmul(x, weight.t())
    return product if bias is None else product + bias


def _parts(gates: Tensor, count: int) -> list[Tensor]:
    width = gates.shape[-1] // count
    return [gates.narrow(-1, place * width, width) for place in range(count)]


def _lstm_step(given: Tensor, state: tuple[Tensor, ...], weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    hidden, cell = state
    # torch's order of the gates: input, forget, cell, output.
    enters, forgets, new, leaves = _parts(given + _linear(hidden, *weights[:2]), 4)
    cell = torch.sigmoid(forgets) * cell + torch.sigmoid(enters) * torch.tanh(new)
    hidden = torch.sigmoid(leaves) * torch.tanh(cell)
    # A third weight projects the hidden state (`proj_size`); the cell keeps its width.
    return (torch.matmul(hidden, weights[2].t()) if len(weights) > 2 else hidden), cell


def _gru_step(given: Tensor, state: tuple[Tensor, ...], weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    (hidden,) = state
    (reset, update, new), (kept_reset, kept_update, kept_new) = (
        _parts(t, 3) for t in (given, _linear(hidden, *weights))
    )
    reset, update = torch.sigmoid(reset + kept_reset), torch.sigmoid(update + kept_update)
    # The reset gate scales the product with its bias, not the state before it: torch's and cuDNN's form.
    new = torch.tanh(new + reset * kept_new)
    # (1 - update) * new + update * hidden, with one product less.
    return (new + update * (hidden - new),)


def _plain_step(
    activation: Callable[[Tensor], Tensor], given: Tensor, state: tuple[Tensor, ...], weights: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    return (activation(given + _linear(state[0], *weights)),)


def _layer(
    step: CellStep, x: Tensor, state: tuple[Tensor, ...], weights: Sequence[Tensor], *, biased: bool, backwards: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One layer in one direction over x (steps, batch, inputs)."""
    input_weight, hidden_weight, *rest = weights
    gates = _linear(x, input_weight, rest[0] if biased else None)
    # Without biases those of the state are zeros: a step takes one, and a projection stands behind it.
    own = (
        [hidden_weight, *rest[1:]]
        if biased
        else [hidden_weight, hidden_weight.new_zeros(hidden_weight.shape[0]), *rest]
    )
    outputs: list[Tensor] = []
    for place in range(x.shape[0] - 1, -1, -1) if backwards else range(x.shape[0]):
        state = step(gates[place], state, own)
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if backwards else outputs), state


def _recurrent(
    step: CellStep,
    x: Tensor,
    state: Any,
    weights: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """The operation's own arguments; dropout does nothing in inference."""
    del dropout, train
    starts = tuple(state) if isinstance(state, (list, tuple)) else (state,)
    x = x.transpose(0, 1) if batch_first else x
    ways = 2 if bidirectional else 1
    # The weights of each layer and direction stand one after another: two, two biases, one that projects.
    each = len(weights) // (num_layers * ways)
    last: list[tuple[Tensor, ...]] = []
    for layer in range(num_layers):
        outputs = []
        for way in range(ways):
            place = layer * ways + way
            own = weights[place * each : (place + 1) * each]
            begun = tuple(s[place] for s in starts)
            output, ended = _layer(step, x, begun, own, biased=has_biases, backwards=way == 1)
            outputs.append(output)
            last.append(ended)
        x = torch.cat(outputs, -1) if ways > 1 else outputs[0]
    ends = tuple(torch.stack(parts) for parts in zip(*last, strict=True))
    return (x.transpose(0, 1) if batch_first else x, *ends)


def _cell(
    step: CellStep,
    x: Tensor,
    state: Any,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Any:
    starts = tuple(state) if isinstance(state, (list, tuple)) else (state,)
    own = [w_hh, b_hh if b_hh is not None else w_hh.new_zeros(w_hh.shape[0])]
    ended = step(_linear(x, w_ih, b_ih), starts, own)
    return ended if len(ended) > 1 else ended[0]


_STEPS: dict[str, CellStep] = {
    "lstm": _lstm_step,
    "gru": _gru_step,
    "rnn_tanh": partial(_plain_step, torch.tanh),
    "rnn_relu": partial(_plain_step, torch.relu),
}
RECURRENT_FORMS: dict[str, Callable[..., Any]] = {
    **{f"aten.{name}.input": partial(_recurrent, step) for name, step in _STEPS.items()},
    **{
        f"aten.{name}_cell.default": partial(_cell, _STEPS[step])
        for name, step in (("lstm", "lstm"), ("gru", "gru"), ("rnn_tanh", "rnn_tanh"), ("rnn_relu", "rnn_relu"))
    },
}
"""By the operation's name: functions of its own arguments."""
