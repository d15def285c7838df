"""Functions and layers without weights as the operations of ATen that they are, where those may have another form.

What comes in by ONNX holds functions of torch and layers; `edgewright.export.lowering` knows operations.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

__all__ = ["with_named_operations"]

_ATEN = torch.ops.aten
_SAME_NAME = ("log1p", "expm1", "sinh", "asinh", "acosh", "atanh")
_FUNCTIONS: Mapping[Callable[..., Any], Any] = {
    **{getattr(torch, name): getattr(_ATEN, name).default for name in _SAME_NAME},
    torch.topk: _ATEN.topk.default,
    torch.sort: _ATEN.sort.default,
    torch.argsort: _ATEN.argsort.default,
    functional.softplus: _ATEN.softplus.default,
    functional.logsigmoid: _ATEN.log_sigmoid.default,
    functional.celu: _ATEN.celu.default,
}
_LAYERS: Mapping[type[nn.Module], Callable[[Any], tuple[Any, tuple[Any, ...]]]] = {
    nn.Softplus: lambda layer: (_ATEN.softplus.default, (layer.beta, layer.threshold)),
    nn.LogSigmoid: lambda _: (_ATEN.log_sigmoid.default, ()),
    nn.LogSoftmax: lambda layer: (_ATEN.log_softmax.int, (layer.dim,)),
    nn.CELU: lambda layer: (_ATEN.celu.default, (layer.alpha,)),
}


def with_named_operations(module: fx.GraphModule) -> fx.GraphModule:
    """A copy in which these functions and layers are operations."""
    module = copy.copy(module)
    module.graph = copy.deepcopy(module.graph)
    for node in module.graph.nodes:
        if node.op == "call_module":
            layer = module.get_submodule(str(node.target))
            # The exact type: a subclass may compute something else. LogSoftmax without an axis takes one by its
            # operand's rank; the operation of ATen wants a number.
            if type(layer) in _LAYERS and not (type(layer) is nn.LogSoftmax and layer.dim is None):
                operation, settings = _LAYERS[type(layer)](layer)
                node.op, node.target, node.args = "call_function", operation, (*node.args, *settings)
        elif node.op == "call_function" and node.target is torch.fmod:
            # One function of torch, two overloads in ATen, by whether the divisor is computed.
            node.target = _ATEN.fmod.Tensor if isinstance(node.args[1], fx.Node) else _ATEN.fmod.Scalar
        elif node.op == "call_function" and node.target in _FUNCTIONS:
            node.target = _FUNCTIONS[node.target]
    module.recompile()
    return module
