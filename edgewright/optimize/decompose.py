"""Low rank: linear layers by truncated SVD (Denton et al., arXiv 1404.0736), convolutions channel-wise (Zhang et al.,
arXiv 1505.06798), spatially separable (Jaderberg et al., arXiv 1405.3866) or by Tucker-2 (Kim et al., arXiv
1511.06530). A layer is split only where that lowers its multiply-accumulates, strides and padding counted. Runs in a
child process: imports torch.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import fx, nn

from edgewright.errors import UnsupportedError
from edgewright.optimize.rows import TechniqueRows
from edgewright.optimize.search import fewest
from edgewright.optimize.selection import loses_little
from edgewright.optimize.training import TrainingRows, fit
from edgewright.recipe import Decompose

__all__ = ["apply", "decompose", "decompose_within"]

LayerChain = tuple[nn.Module, ...]
Extent = tuple[int, int]
_TUCKER_ITERATIONS = 3
# Shares of the operations to remove, the most first, that a search tries.
_RATIOS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


def apply(model: fx.GraphModule, params: Decompose, rows: TechniqueRows) -> fx.GraphModule:
    """See `decompose`; a rank that is searched for is judged on the validation rows."""
    training, example = rows.training() if params.training else None, rows.calibration_inputs()[:1]
    if params.rank != "search":
        return decompose(model, params, example, training)
    allowed = partial(loses_little, model, rows.validation(), params.max_accuracy_drop_percent)
    return decompose_within(model, params, example, training, allowed)


def decompose(
    model: fx.GraphModule, params: Decompose, example: torch.Tensor, rows: TrainingRows | None
) -> fx.GraphModule:
    """A copy in which each layer is two or three, wherever that lowers its multiply-accumulates on ``example``.

    Raises:
        UnsupportedError: no layer's rank is low enough, or training is asked for without rows.
    """
    original, model = model, copy.deepcopy(model)
    sizes = _sizes(model, example)
    split = 0
    # A list of its own, since nodes are replaced on the way.
    for node in list(model.graph.nodes):
        if node.op != "call_module" or str(node.target) not in sizes:
            continue
        layers = _Splitting(params, *sizes[str(node.target)]).of(model.get_submodule(str(node.target)))
        if layers is not None:
            _replace(model, node, layers)
            split += 1
    if not split:
        wanted = (
            f"{params.energy:.0%} of its energy" if params.rank == "energy" else f"{1 - params.ratio:.0%} of the cost"
        )
        raise UnsupportedError(
            f"decompose: no layer keeps {wanted} in a rank that costs less; ask for less or leave this technique out"
        )
    model.delete_all_unused_submodules()
    model.recompile()
    if params.training is not None:
        if rows is None:
            raise UnsupportedError("decompose: training needs training rows; give data, or set `training: null`")
        fit(model, rows, params.training, teacher=original)
    return model


def decompose_within(
    model: fx.GraphModule,
    params: Decompose,
    example: torch.Tensor,
    rows: TrainingRows | None,
    allowed: Callable[[nn.Module], bool],
) -> fx.GraphModule:
    """The `decompose` of least rank that ``allowed`` accepts: it compares with the original on validation rows.

    Raises:
        UnsupportedError: none does, or as for `decompose`.
    """
    models: dict[int, fx.GraphModule] = {}

    def passes(count: int) -> bool:
        # Whatever the recipe's way to a rank, a search removes a share of the operations.
        attempt = params.model_copy(update={"rank": "ratio", "ratio": _RATIOS[count - 1]})
        models[count] = decompose(model, attempt, example, rows)
        return allowed(models[count])

    level = fewest(len(_RATIOS), passes)
    if level is None:
        raise UnsupportedError(
            f"decompose: even {_RATIOS[-1]:.0%} fewer operations a layer cost more accuracy than "
            f"{params.max_accuracy_drop_percent:g} percentage points on the validation rows; leave this technique out"
        )
    return models[level]


def _sizes(model: nn.Module, example: torch.Tensor) -> dict[str, tuple[Extent, Extent]]:
    """(height, width) of each layer's input and output, once in the network; (positions, 1) of a linear layer."""
    seen: dict[str, list[tuple[Extent, Extent]]] = {}

    def watch(name: str, layer: nn.Module, given: torch.Tensor, output: torch.Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            shapes = [(int(t.shape[-2]), int(t.shape[-1])) for t in (given, output)]
        else:
            shapes = [(output.numel() // int(output.shape[-1]), 1)] * 2
        seen.setdefault(name, []).append((shapes[0], shapes[1]))

    handles = []
    for name, layer in model.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):

            def hook(layer: nn.Module, given: tuple[Any, ...], output: Any, name: str = name) -> None:
                watch(name, layer, given[0], output)

            handles.append(layer.register_forward_hook(hook))
    try:
        with torch.no_grad():
            model.eval()(example[:1])
    finally:
        for handle in handles:
            handle.remove()
    # A layer that is called twice keeps its place: its calls may differ in what they cost.
    return {name: shapes[0] for name, shapes in seen.items() if len(shapes) == 1}


def _replace(model: fx.GraphModule, node: fx.Node, layers: LayerChain) -> None:
    parts = ("reduce", "expand") if len(layers) == 2 else ("reduce", "core", "expand")
    last = node.all_input_nodes[0]
    with model.graph.inserting_before(node):
        for part, layer in zip(parts, layers, strict=True):
            name = f"{node.target}_{part}"
            model.add_submodule(name, layer)
            last = model.graph.call_module(name, (last,))
    node.replace_all_uses_with(last)
    model.graph.erase_node(node)


@dataclass(frozen=True)
class _Splitting:
    """How one layer is split: with which rank, given the sizes of its input and output."""

    params: Decompose
    input_size: Extent
    output_size: Extent

    def of(self, layer: nn.Module) -> LayerChain | None:
        """The thinner layers in order; None where they would not cost less, or there is no way."""
        if isinstance(layer, nn.Linear):
            return self._linear(layer)
        if isinstance(layer, nn.Conv2d) and layer.groups == 1 and not isinstance(layer.padding, str):
            kinds = {"channel": self._channel, "spatial": self._spatial, "tucker": self._tucker}
            return kinds[self.params.convolution](layer)
        return None

    def _rank(self, values: torch.Tensor, full: int, one: int) -> int | None:
        """The rank by energy or ratio, where ``rank * one`` operations are fewer than ``full``."""
        if self.params.rank == "energy":
            energy = values.square().cumsum(0) / values.square().sum()
            # The shortest prefix of the falling singular values that holds the share.
            rank = int((energy < self.params.energy).sum()) + 1
        else:
            rank = max(1, min(len(values), int((1 - self.params.ratio) * full / one)))
        return rank if rank * one < full else None

    def _factors(self, matrix: torch.Tensor, full: int, one: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        # float64: the small singular values, which decide the rank, are below float32's rounding.
        left, values, right = torch.linalg.svd(matrix.detach().double(), full_matrices=False)
        rank = self._rank(values, full, one)
        if rank is None:
            return None
        # Each factor takes the square root: their weights are then of like magnitude.
        root = values[:rank].sqrt()
        return (left[:, :rank] * root).float(), (root[:, None] * right[:rank]).float()

    def _linear(self, layer: nn.Linear) -> LayerChain | None:
        # Rank r costs r * (inputs + outputs) operations, the layer inputs * outputs.
        factors = self._factors(layer.weight, layer.weight.numel(), sum(layer.weight.shape))
        if factors is None:
            return None
        expand, reduce = factors
        first = nn.Linear(layer.in_features, len(reduce), bias=False)
        second = nn.Linear(len(reduce), layer.out_features, bias=layer.bias is not None)
        return _filled(first, reduce), _filled(second, expand, layer.bias)

    def _channel(self, layer: nn.Conv2d) -> LayerChain | None:
        matrix = layer.weight.flatten(1)
        factors = self._factors(matrix, matrix.numel(), sum(matrix.shape))
        if factors is None:
            return None
        expand, reduce = factors
        first = nn.Conv2d(
            layer.in_channels, len(reduce), *_geometry(layer), bias=False, padding_mode=layer.padding_mode
        )
        second = nn.Conv2d(len(reduce), layer.out_channels, 1, bias=layer.bias is not None)
        return _filled(first, reduce), _filled(second, expand, layer.bias)

    def _spatial(self, layer: nn.Conv2d) -> LayerChain | None:
        outputs, inputs, high, wide = layer.weight.shape
        if high == 1 or wide == 1:
            return None
        # (inputs * height, outputs * width): a term of rank one is a column kernel followed by a row kernel.
        matrix = layer.weight.permute(1, 2, 0, 3).reshape(inputs * high, outputs * wide)
        # The column runs on rows as they come out and columns as they come in.
        column = self.output_size[0] * self.input_size[1] * inputs * high
        one = column + _area(self.output_size) * outputs * wide
        factors = self._factors(matrix, self._operations(layer), one)
        if factors is None:
            return None
        columns, rows = factors
        rank = len(rows)
        _, (sh, sw), (ph, pw), (dh, dw) = _geometry(layer)
        mode, biased = layer.padding_mode, layer.bias is not None
        first = nn.Conv2d(inputs, rank, (high, 1), (sh, 1), (ph, 0), (dh, 1), bias=False, padding_mode=mode)
        second = nn.Conv2d(rank, outputs, (1, wide), (1, sw), (0, pw), (1, dw), bias=biased, padding_mode=mode)
        # (rank, inputs, height, 1) and (outputs, rank, 1, width)
        vertical = columns.T.reshape(rank, inputs, high, 1)
        horizontal = rows.reshape(rank, outputs, 1, wide).transpose(0, 1)
        return _filled(first, vertical), _filled(second, horizontal, layer.bias)

    def _tucker(self, layer: nn.Conv2d) -> LayerChain | None:
        """Fewer input channels by 1x1, the kernel between few channels, the output channels back by 1x1."""
        weight = layer.weight.detach().double()
        outputs, inputs, high, wide = weight.shape
        # A 1x1 kernel leaves no core between the two 1x1 layers.
        if high * wide == 1:
            return self._channel(layer)
        ranks = self._tucker_ranks(layer, weight)
        if ranks is None:
            return None
        left, right = _tucker_factors(weight, ranks)
        # The kernel in both bases, (r, s, height, width).
        core = torch.einsum("oihw,or,is->rshw", weight, left, right)
        first = nn.Conv2d(inputs, ranks[1], 1, bias=False)
        middle = nn.Conv2d(ranks[1], ranks[0], *_geometry(layer), bias=False, padding_mode=layer.padding_mode)
        last = nn.Conv2d(ranks[0], outputs, 1, bias=layer.bias is not None)
        return (
            _filled(first, right.T.float()),
            _filled(middle, core.float()),
            _filled(last, left.float(), layer.bias),
        )

    def _tucker_ranks(self, layer: nn.Conv2d, weight: torch.Tensor) -> Extent | None:
        outputs, inputs, high, wide = weight.shape
        before, after, full = _area(self.input_size), _area(self.output_size), self._operations(layer)

        # The first 1x1 runs on the input's size, the core and the last 1x1 on the output's, after the strides.
        def operations(out: int, into: int) -> int:
            return before * inputs * into + after * (into * out * high * wide + out * outputs)

        if self.params.rank == "energy":
            # Both unfoldings lose a part; each may lose half of what the layer may.
            loss = (1 - self.params.energy) / 2
            ranks = []
            for unfolded in (weight.flatten(1), weight.transpose(0, 1).flatten(1)):
                powers = torch.linalg.svdvals(unfolded).square()
                ranks.append(int(((powers.cumsum(0) / powers.sum()) < 1 - loss).sum()) + 1)
            out, into = min(ranks[0], outputs), min(ranks[1], inputs)
        else:
            # Both ranks fall together, in steps of a 64th, to the first pair that is cheap enough.
            shares = [s / 64 for s in range(64, 0, -1)]
            pairs = [(max(1, round(s * outputs)), max(1, round(s * inputs))) for s in shares]
            out, into = next((p for p in pairs if operations(*p) <= (1 - self.params.ratio) * full), pairs[-1])
        return (out, into) if operations(out, into) < full else None

    def _operations(self, layer: nn.Conv2d) -> int:
        return _area(self.output_size) * layer.weight.numel()


def _tucker_factors(weight: torch.Tensor, ranks: Extent) -> tuple[torch.Tensor, torch.Tensor]:
    """(O, r) and (I, s), orthonormal: higher-order orthogonal iteration from the unfoldings' singular vectors."""
    left = _leading(weight.flatten(1), ranks[0])
    right = _leading(weight.transpose(0, 1).flatten(1), ranks[1])
    for _ in range(_TUCKER_ITERATIONS):
        left = _leading(torch.einsum("oihw,is->oshw", weight, right).flatten(1), ranks[0])
        right = _leading(torch.einsum("oihw,or->irhw", weight, left).flatten(1), ranks[1])
    return left, right


def _leading(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    vectors: torch.Tensor = torch.linalg.svd(matrix, full_matrices=False)[0]
    return vectors[:, :rank]


def _area(shape: Extent) -> int:
    return shape[0] * shape[1]


def _geometry(layer: nn.Conv2d) -> tuple[Extent, Extent, Extent, Extent]:
    """Kernel, stride, padding and dilation, each (height, width)."""
    pairs = [(int(p[0]), int(p[1])) for p in (layer.kernel_size, layer.stride, layer.padding, layer.dilation)]
    return pairs[0], pairs[1], pairs[2], pairs[3]


def _filled(layer: nn.Linear | nn.Conv2d, weight: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Module:
    with torch.no_grad():
        layer.weight.copy_(weight.reshape(layer.weight.shape))
        if layer.bias is not None and bias is not None:
            layer.bias.copy_(bias)
    return layer
