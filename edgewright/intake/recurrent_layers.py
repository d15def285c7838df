"""Recurrent operations of ATen become `nn.LSTM`, `nn.GRU` and `nn.RNN` again. Imports torch."""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from edgewright.intake.module_paths import free_name, place, tensor_at

__all__ = ["RECURRENT", "raise_recurrent"]

RECURRENT: dict[str, tuple[type[nn.RNNBase], dict[str, str]]] = {
    "aten.lstm.input": (nn.LSTM, {}),
    "aten.gru.input": (nn.GRU, {}),
    "aten.rnn_tanh.input": (nn.RNN, {"nonlinearity": "tanh"}),
    "aten.rnn_relu.input": (nn.RNN, {"nonlinearity": "relu"}),
}
_ZEROS = {"aten.zeros.default", "aten.new_zeros.default", "aten.zeros_like.default"}


def raise_recurrent(module: fx.GraphModule, node: fx.Node, path: str) -> None:
    """Replace a call of (input, state, weights, biased, layers, dropout, training, bidirectional, batch_first).

    Where a weight is computed, or the layer projects its state, the operation stays what it is.
    """
    arguments: Any = node.args
    given, state, weights = arguments[:3]
    layer = _layer(node, given, weights, arguments[3:])
    if layer is None:
        return
    for name, weight in zip(layer._flat_weights_names, weights, strict=True):
        tensor = tensor_at(module, str(weight.target))
        setattr(layer, name, tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor))
    owner = str(weights[0].target).rpartition(".")[0]
    holder = module.get_submodule(owner)
    # The layer takes the path of its weights only where nothing else would go with it.
    own = {f"{owner}.{n}" for n in (*holder._parameters, *holder._buffers)}
    is_alone = owner and own <= {str(w.target) for w in weights} and not holder._modules
    at = owner if is_alone else free_name(module, path or node.name)
    place(module, at, layer.eval())
    _replace(module, node, at, given, state)


def _layer(node: fx.Node, given: Any, weights: Sequence[Any], settings: Sequence[Any]) -> nn.RNNBase | None:
    """The layer with those settings, without its weights; None where there is none."""
    biased, layers, dropout, _, both_ways, batch_first = settings
    kind, named = RECURRENT[str(node.target)]
    if any(not isinstance(w, fx.Node) or w.op != "get_attr" for w in weights):
        return None
    from_input, from_state = (w.meta["val"].shape for w in weights[:2])
    # Gates lie one after the other on the first axis: four of an LSTM, three of a GRU.
    hidden = from_input[0] // {nn.LSTM: 4, nn.GRU: 3}.get(kind, 1)
    # An LSTM with a projection has a state narrower than its gates; without a batch axis the rows would be steps.
    if from_state[1] != hidden or len(given.meta["val"].shape) != 3:
        return None
    choices: dict[str, Any] = {"bias": biased, "batch_first": batch_first, "dropout": dropout, **named}
    with torch.device("meta"):
        make: Any = kind
        layer: nn.RNNBase = make(int(from_input[1]), int(hidden), layers, bidirectional=both_ways, **choices)
    # The operation lists weights by layer and direction, as the layer names them; another count is another form.
    return layer if len(layer._flat_weights_names) == len(weights) else None


def _replace(module: fx.GraphModule, node: fx.Node, path: str, given: Any, state: Any) -> None:
    """The layer returns its state as one value, a pair for an LSTM; it begins with zeros by itself."""
    is_lstm = str(node.target) == "aten.lstm.input"
    states = state if isinstance(state, (list, tuple)) else [state]
    start: tuple[Any, ...] = ()
    if not all(isinstance(s, fx.Node) and str(s.target) in _ZEROS for s in states):
        start = (tuple(states) if is_lstm else states[0],)
    with module.graph.inserting_before(node):
        call = module.graph.call_module(path, (given, *start))
        values = node.meta["val"]
        call.meta = {**node.meta, "val": (values[0], tuple(values[1:]) if is_lstm else values[1])}
        for user in list(node.users):
            which: Any = user.args[1]
            # (output, h, c) of the operation become (output, (h, c)) or (output, h).
            result = module.graph.call_function(operator.getitem, (call, min(which, 1)))
            if is_lstm and which:
                result = module.graph.call_function(operator.getitem, (result, which - 1))
            result.meta = dict(user.meta)
            user.replace_all_uses_with(result)
            module.graph.erase_node(user)
    module.graph.erase_node(node)
