"""Low rank by truncated SVD: linear layers (Denton et al., arXiv 1404.0736), convolutions channel-wise (Zhang et al.,
arXiv 1505.06798) or spatially separable (Jaderberg et al., arXiv 1405.3866). Runs in a child process: imports torch.
"""

import copy

import torch
from torch import fx, nn

from edgewright.errors import UnsupportedError
from edgewright.optimize.training import Rows, fit
from edgewright.recipe import Decompose

__all__ = ["decompose"]

Pair = tuple[nn.Module, nn.Module]


def decompose(model: fx.GraphModule, params: Decompose, rows: Rows | None) -> fx.GraphModule:
    """A copy in which each layer is two, wherever that lowers its multiply-accumulates.

    Raises:
        UnsupportedError: no layer's rank is low enough, or training is asked for without rows.
    """
    original, model = model, copy.deepcopy(model)
    split = 0
    for node in list(model.graph.nodes):
        if node.op != "call_module":
            continue
        pair = _pair(model.get_submodule(str(node.target)), params)
        if pair is not None:
            _replace(model, node, pair)
            split += 1
    if not split:
        raise UnsupportedError(
            f"decompose: no layer keeps {params.energy:.0%} of its energy in a rank that costs less; "
            "lower `energy` or leave this technique out"
        )
    model.delete_all_unused_submodules()
    model.recompile()
    if params.training is not None:
        if rows is None:
            raise UnsupportedError("decompose: training needs training rows; give data, or set `training: null`")
        fit(model, rows, params.training, teacher=original)
    return model


def _replace(model: fx.GraphModule, node: fx.Node, pair: Pair) -> None:
    names = [f"{node.target}_{part}" for part in ("reduce", "expand")]
    for name, layer in zip(names, pair, strict=True):
        model.add_submodule(name, layer)
    with model.graph.inserting_before(node):
        inner = model.graph.call_module(names[0], node.args, node.kwargs)
        outer = model.graph.call_module(names[1], (inner,))
    node.replace_all_uses_with(outer)
    model.graph.erase_node(node)


def _pair(layer: nn.Module, params: Decompose) -> Pair | None:
    if isinstance(layer, nn.Linear):
        return _linear(layer, params.energy)
    if isinstance(layer, nn.Conv2d) and layer.groups == 1 and not isinstance(layer.padding, str):
        return (_spatial if params.convolution == "spatial" else _channel)(layer, params.energy)
    return None


def _factors(
    matrix: torch.Tensor, energy: float, full_cost: int, cost_of_one: int
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(rows, r) and (r, columns) of the least rank that keeps ``energy``; None where it would not cost less."""
    left, values, right = torch.linalg.svd(matrix.detach().double(), full_matrices=False)
    kept = values.square().cumsum(0) / values.square().sum()
    rank = int((kept < energy).sum()) + 1
    if rank * cost_of_one >= full_cost:
        return None
    root = values[:rank].sqrt()
    return (left[:, :rank] * root).float(), (root[:, None] * right[:rank]).float()


def _linear(layer: nn.Linear, energy: float) -> Pair | None:
    found = _factors(layer.weight, energy, layer.weight.numel(), sum(layer.weight.shape))
    if found is None:
        return None
    expand, reduce = found
    first = nn.Linear(layer.in_features, len(reduce), bias=False)
    second = nn.Linear(len(reduce), layer.out_features, bias=layer.bias is not None)
    return _filled(first, reduce), _filled(second, expand, layer.bias)


def _channel(layer: nn.Conv2d, energy: float) -> Pair | None:
    matrix = layer.weight.flatten(1)
    found = _factors(matrix, energy, matrix.numel(), sum(matrix.shape))
    if found is None or (layer.weight[0, 0].numel() == 1 and layer.stride != (1, 1)):
        return None
    expand, reduce = found
    first = nn.Conv2d(
        layer.in_channels,
        len(reduce),
        *_geometry(layer),
        bias=False,
        padding_mode=layer.padding_mode,
    )
    second = nn.Conv2d(len(reduce), layer.out_channels, 1, bias=layer.bias is not None)
    return _filled(first, reduce), _filled(second, expand, layer.bias)


def _spatial(layer: nn.Conv2d, energy: float) -> Pair | None:
    outputs, inputs, high, wide = layer.weight.shape
    if high == 1 or wide == 1:
        return None
    matrix = layer.weight.permute(1, 2, 0, 3).reshape(inputs * high, outputs * wide)
    found = _factors(matrix, energy, layer.weight.numel(), sum(matrix.shape))
    if found is None:
        return None
    column, row = found
    rank = len(row)
    _, (sh, sw), (ph, pw), (dh, dw) = _geometry(layer)
    first = nn.Conv2d(inputs, rank, (high, 1), (sh, 1), (ph, 0), (dh, 1), bias=False, padding_mode=layer.padding_mode)
    second = nn.Conv2d(
        rank,
        outputs,
        (1, wide),
        (1, sw),
        (0, pw),
        (1, dw),
        bias=layer.bias is not None,
        padding_mode=layer.padding_mode,
    )
    vertical = column.T.reshape(rank, inputs, high, 1)
    horizontal = row.reshape(rank, outputs, 1, wide).transpose(0, 1)
    return _filled(first, vertical), _filled(second, horizontal, layer.bias)


def _geometry(layer: nn.Conv2d) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Kernel, stride, padding and dilation, each (height, width)."""
    pairs = [(int(p[0]), int(p[1])) for p in (layer.kernel_size, layer.stride, layer.padding, layer.dilation)]
    return pairs[0], pairs[1], pairs[2], pairs[3]


def _filled(layer: nn.Linear | nn.Conv2d, weight: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Module:
    with torch.no_grad():
        layer.weight.copy_(weight.reshape(layer.weight.shape))
        if layer.bias is not None and bias is not None:
            layer.bias.copy_(bias)
    return layer
