"""Recurrent layers, written out step by step: every target converts and every technique knows what they are made of.

LSTM (Hochreiter and Schmidhuber 1997), GRU (Cho et al. 2014) and RNN follow the ONNX operator specification (ai.onnx).
The steps share two dense layers, one of the inputs and one of the state.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import fx

from edgewright.intake.builder import Builder, Op, Operand, Result, operand, refuse, tensor
from edgewright.intake.operators.convolution import layer_name, linear

__all__ = ["HANDLERS"]

_MAX_STEPS = 256
"""A graph grows by a dozen operators for each step; longer sequences belong in a loop."""
_ACTIVATIONS: dict[str, Callable[..., Any]] = {"Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Relu": torch.relu}
State = tuple[Operand | None, ...]
Cell = tuple[Callable[..., Any], Callable[..., State]]
"""What makes the shared layers of a direction, and what takes the state from one step to the next."""


@dataclass(frozen=True)
class Direction:
    """The weights of one direction; H is the hidden size, G the number of gates.

    ``inputs`` (G H, features), ``states`` (G H, H), ``bias_inputs`` and ``bias_states`` (G H,), ``peephole`` (3 H,).
    """

    name: str
    hidden: int
    inputs: torch.Tensor
    states: torch.Tensor
    bias_inputs: torch.Tensor
    bias_states: torch.Tensor
    peephole: torch.Tensor | None
    functions: tuple[Callable[..., Any], ...]


class _Shared:
    """A layer that is called at each step and stands in the graph once."""

    def __init__(self, b: Builder, name: str, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.b, self.name, self.weight, self.bias = b, name, weight, bias
        self.first: Operand | None = None

    def __call__(self, x: Operand) -> Operand:
        if isinstance(self.first, fx.Node):
            return self.b.again(self.first, x)
        call = linear(self.b, self.name, x, self.weight, self.bias)
        self.first = call
        return call


def _unrolled(gates: int, step: Cell, states: int) -> Callable[[Builder, Op], Result]:
    def handler(b: Builder, op: Op) -> Result:
        x, batch_first = operand(op, 0), bool(op.get("layout", 0))
        # The specification's own order is (steps, N, features).
        x = b.call(torch.transpose, x, 0, 1) if batch_first else x
        length = b.shape(x)[0]
        if not isinstance(length, int) or length > _MAX_STEPS:
            raise refuse(op, f"{length} steps; up to {_MAX_STEPS} are written out")
        _refuse_rare(op, length)
        kind = op.get("direction", "forward")
        backwards = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[kind]
        sequences, ends = [], []
        for position, reverse in enumerate(backwards):
            direction = _direction(op, position, gates)
            initial = _initial(b, op, position, states, batch_first=batch_first)
            hidden, last = _run(b, x, direction, step, initial, length, reverse=reverse)
            sequences.append(hidden)
            ends.append(last)
        y = b.call(torch.stack, sequences, 1)  # (steps, directions, N, H)
        finals = [b.call(torch.stack, [cast(Operand, end[i]) for end in ends], 0) for i in range(states)]
        # With layout 1: (N, steps, directions, H), and (N, directions, H) of the states.
        if batch_first:
            y = b.call(torch.permute, y, [2, 0, 1, 3])
            finals = [b.call(torch.transpose, f, 0, 1) for f in finals]
        return (y, *finals)[: len(op.outputs)]

    return handler


def _refuse_rare(op: Op, length: int) -> None:
    lengths = op.input(4)
    if lengths is not None and not (isinstance(lengths, torch.Tensor) and bool((lengths == length).all())):
        raise refuse(op, "sequence_lens: sequences of different lengths")
    if op.get("clip") is not None or op.get("input_forget", 0):
        raise refuse(op, "clip or input_forget")


def _direction(op: Op, position: int, gates: int) -> Direction:
    inputs, states = tensor(op, 1)[position], tensor(op, 2)[position]
    hidden = states.shape[1]
    # Told by the weights as well; read, so that it does not count as unknown.
    op.get("hidden_size")
    # Both biases in one list: first those of the inputs, then those of the state.
    biases = torch.zeros(2 * gates * hidden, dtype=inputs.dtype) if op.input(3) is None else tensor(op, 3)[position]
    peephole = tensor(op, 7)[position] if op.kind == "LSTM" and op.input(7) is not None else None
    names = op.get("activations") or _DEFAULTS[op.kind] * 2
    if op.get("activation_alpha") or op.get("activation_beta") or set(names) - set(_ACTIVATIONS):
        raise refuse(op, f"activations {', '.join(names)}; known are {', '.join(_ACTIVATIONS)}")
    each = len(_DEFAULTS[op.kind])
    return Direction(
        name=layer_name(op) + ("_reverse" if position else ""),
        hidden=hidden,
        inputs=inputs,
        states=states,
        bias_inputs=biases[: gates * hidden],
        bias_states=biases[gates * hidden :],
        peephole=peephole,
        functions=tuple(_ACTIVATIONS[n] for n in names[position * each : (position + 1) * each]),
    )


def _initial(b: Builder, op: Op, position: int, states: int, *, batch_first: bool) -> State:
    """The state before the first step, (N, H) each; None stands for zeros."""
    state: list[Operand | None] = []
    for index in (5, 6)[:states]:
        value = op.input(index)
        # Zeros need no product in the first step.
        if value is None or (isinstance(value, torch.Tensor) and not value.any()):
            state.append(None)
        else:
            state.append(b.call(torch.select, operand(op, index), 1 if batch_first else 0, position))
    return tuple(state)


def _run(
    b: Builder, x: Operand, d: Direction, step: Cell, state: State, length: int, *, reverse: bool
) -> tuple[Operand, State]:
    """(steps, N, H) of all hidden states, and the state at the end."""
    # The inputs' share of all steps is one product before the loop.
    prepare, advance = step
    shared = prepare(b, d, x)
    # Filled from either end; x only holds the places.
    hidden: list[Operand] = [x] * length
    for time in reversed(range(length)) if reverse else range(length):
        state = advance(b, d, shared, b.call(torch.select, shared[0], 0, time), state)
        hidden[time] = cast(Operand, state[0])
    return b.call(torch.stack, hidden, 0), state


def _one_layer(b: Builder, d: Direction, x: Operand) -> Any:
    """The inputs' share of all gates at once, with both biases, and the layer of the state."""
    projected = linear(b, f"{d.name}_inputs", x, d.inputs, d.bias_inputs + d.bias_states)
    return projected, _Shared(b, f"{d.name}_states", d.states, None)


def _rnn_step(b: Builder, d: Direction, shared: Any, gates: Operand, state: State) -> State:
    (hidden,) = state
    total = gates if hidden is None else b.call(torch.add, gates, shared[1](hidden))
    return (b.call(d.functions[0], total),)


def _lstm_step(b: Builder, d: Direction, shared: Any, gates: Operand, state: State) -> State:
    hidden, cell = state
    total = gates if hidden is None else b.call(torch.add, gates, shared[1](hidden))
    input_gate, output_gate, forget_gate, candidate = b.several(4, torch.chunk, total, 4, 1)  # ONNX's order: i, o, f, c
    f, g, h = d.functions
    to_enter, to_leave, to_keep = (None,) * 3 if d.peephole is None else d.peephole.chunk(3)

    def opened(gate: Operand, weight: torch.Tensor | None, seen: Operand | None) -> Operand:
        looked = gate if weight is None or seen is None else b.call(torch.add, gate, b.call(torch.mul, seen, weight))
        return b.call(f, looked)

    new = b.call(torch.mul, opened(input_gate, to_enter, cell), b.call(g, candidate))
    # Zeros forget nothing: without a cell there is no second term.
    if cell is not None:
        new = b.call(torch.add, new, b.call(torch.mul, opened(forget_gate, to_keep, cell), cell))
    return b.call(torch.mul, opened(output_gate, to_leave, new), b.call(h, new)), new


def _gru_layers(reset_after: bool) -> Callable[[Builder, Direction, Operand], Any]:
    """The state's part of the candidate is apart where the reset gate comes before its matrix."""

    def prepare(b: Builder, d: Direction, x: Operand) -> Any:
        two = 2 * d.hidden
        # The candidate's state bias lies behind the reset gate, so it is not added to the inputs' one.
        bias = d.bias_inputs + d.bias_states
        if reset_after:
            bias = torch.cat([bias[:two], d.bias_inputs[two:]])
        projected = linear(b, f"{d.name}_inputs", x, d.inputs, bias)
        own = d.bias_states[two:] if reset_after else None
        gates = _Shared(b, f"{d.name}_gates", d.states[:two], None)
        return projected, gates, _Shared(b, f"{d.name}_candidate", d.states[two:], own)

    return prepare


def _gru_advance(reset_after: bool) -> Callable[..., State]:
    def advance(b: Builder, d: Direction, shared: Any, gates: Operand, state: State) -> State:
        (hidden,), (f, g), two = state, d.functions, 2 * d.hidden
        both, candidate = b.several(2, torch.split, gates, [two, d.hidden], 1)
        both = both if hidden is None else b.call(torch.add, both, shared[1](hidden))
        update, reset = b.several(2, torch.chunk, b.call(f, both), 2, 1)
        if hidden is None:
            # A state of zeros times the matrix is zero; its bias remains.
            past: Operand | None = b.call(torch.mul, reset, d.bias_states[two:]) if reset_after else None
        elif reset_after:
            past = b.call(torch.mul, reset, shared[2](hidden))
        else:
            past = shared[2](b.call(torch.mul, reset, hidden))
        new = b.call(g, candidate if past is None else b.call(torch.add, candidate, past))
        fresh = b.call(torch.mul, b.call(torch.sub, 1.0, update), new)
        return (fresh if hidden is None else b.call(torch.add, fresh, b.call(torch.mul, update, hidden)),)

    return advance


def gru(b: Builder, op: Op) -> Result:
    """GRU, with the reset gate before or after the state's matrix."""
    reset_after = bool(op.get("linear_before_reset", 0))
    return _unrolled(3, (_gru_layers(reset_after), _gru_advance(reset_after)), 1)(b, op)


_DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
HANDLERS: dict[str, Callable[[Builder, Op], Result]] = {
    "LSTM": _unrolled(4, (_one_layer, _lstm_step), 2),
    "GRU": gru,
    "RNN": _unrolled(1, (_one_layer, _rnn_step), 1),
}
