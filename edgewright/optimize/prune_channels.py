"""Structured pruning along the dependency graph (Fang et al., DepGraph, arXiv 2301.12900; library Torch-Pruning).

Importance by magnitude (Li et al., arXiv 1608.08710), first-order Taylor expansion (Molchanov et al., arXiv
1906.10771) or BatchNorm scale (Liu et al., arXiv 1708.06519). Gradual, with training after each step. Runs in a child
process: imports torch.
"""

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import fx, nn

from edgewright.errors import UnsupportedError
from edgewright.optimize.rows import TechniqueRows
from edgewright.optimize.training import TrainingRows, class_logits, fit, has_several_outputs, joined, spread_of
from edgewright.recipe import PruneChannels

__all__ = ["apply", "multiply_accumulates", "narrowed", "prune_channels"]

_TAYLOR_ROWS = 512
# Gradients are taken anew once less than this share of the cost is left. Within a layer they hold for a while; ranked
# across layers they do not: by gradients 3% old, the recipe `distill` loses the demo's network its accuracy.
_SAME_NETWORK = {"global": 1.0, "layer": 0.97}


def apply(model: fx.GraphModule, params: PruneChannels, rows: TechniqueRows) -> fx.GraphModule:
    """See `prune_channels`."""
    return prune_channels(model, params, rows.training())


def prune_channels(model: fx.GraphModule, params: PruneChannels, rows: TrainingRows | None) -> fx.GraphModule:
    """A copy with ``params.ratio`` of its multiply-accumulates or parameters removed, in ``params.steps`` steps.

    Raises:
        UnsupportedError: no training rows, or the network's structure cannot be pruned that far.
    """
    if rows is None:
        raise UnsupportedError("prune_channels: needs training rows to recover; give data with a training split")
    if params.target == "latency":
        raise UnsupportedError("prune_channels: latency is that of an exported model; the task exports and measures")
    original, model = model, copy.deepcopy(model)
    cost = _width if params.target == "parameters" else partial(multiply_accumulates, example=rows.inputs[:1])
    full = cost(model)
    pruner = _pruner(model, params, rows.inputs[:1])
    for step in range(1, params.steps + 1):
        _prune_to(model, pruner, params, rows, cost, full * (1 - params.ratio * step / params.steps))
        if params.training is not None:
            # Each step sees the rows in another order.
            training = params.training.model_copy(update={"seed": params.training.seed + step})
            fit(model, rows, training, teacher=original)
    return model.eval()


def narrowed(model: fx.GraphModule, width: float, example: torch.Tensor) -> fx.GraphModule:
    """A copy whose every layer has ``width`` of its channels, those of largest magnitude; the outputs stay.

    Raises:
        UnsupportedError: the structure cannot be pruned.
    """
    import torch_pruning as tp

    model = copy.deepcopy(model)
    pruner = tp.pruner.BasePruner(
        model,
        example,
        importance=tp.importance.GroupMagnitudeImportance(),
        pruning_ratio=1 - width,
        ignored_layers=_last_layers(model),
    )
    # Torch-Pruning does not follow every operation: what it leaves inconsistent fails when the graph runs.
    try:
        pruner.step()
        multiply_accumulates(model, example)
    except (RuntimeError, ValueError, IndexError) as e:
        raise UnsupportedError(f"distill: the graph does not run with narrower layers: {str(e).splitlines()[0]}") from e
    return model


def multiply_accumulates(model: nn.Module, example: torch.Tensor) -> int:
    """Multiply-accumulates of the linear and convolution layers for one inference on ``example`` (1, ...)."""
    total = 0

    def count(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Linear):
            total += output.numel() * layer.in_features
        elif isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            total += output.numel() * layer.weight[0].numel()

    handles = [layer.register_forward_hook(count) for layer in model.modules()]
    try:
        with torch.no_grad():
            model.eval()(example)
    finally:
        for handle in handles:
            handle.remove()
    return total


def _pruner(model: fx.GraphModule, params: PruneChannels, example: torch.Tensor) -> Any:
    import torch_pruning as tp

    importance = {
        "magnitude": tp.importance.GroupMagnitudeImportance,
        "taylor": tp.importance.GroupTaylorImportance,
        "batchnorm": tp.importance.BNScaleImportance,
    }[params.importance]()
    # Torch-Pruning finds which channels depend on each other by autograd.
    for parameter in model.parameters():
        # Whole numbers have no gradient, and torch refuses to ask one of them.
        parameter.requires_grad_(parameter.is_floating_point())
    return tp.pruner.BasePruner(
        model,
        example,
        importance=_untied(importance),
        global_pruning=params.scope == "global",
        # More than is ever asked for, as `_prune_to` stops at the target; no layer may lose all of its channels.
        pruning_ratio=0.98,
        max_pruning_ratio=0.95,
        # Small steps: the target in operations is met by as many of them as it takes.
        iterative_steps=200,
        ignored_layers=_last_layers(model),
        round_to=params.channel_multiple,
    )


def _untied(importance: Callable[[Any], torch.Tensor | None]) -> Callable[[Any], torch.Tensor | None]:
    """Scores of which no two are equal, in the same order otherwise.

    Torch-Pruning removes all channels up to the score of the last one that is to go: of a network whose BatchNorm
    scales are all 1, every channel of every layer.
    """
    drawn = torch.Generator().manual_seed(0)

    def untied(group: Any) -> torch.Tensor | None:
        scores = importance(group)
        if scores is None:
            return None
        share = torch.rand(len(scores), generator=drawn, dtype=torch.float64)
        # In float64, by far less than float32 tells apart. 1e-30: a share of a score of 0 is 0.
        return scores.double() * (1 + 1e-9 * share) + 1e-30 * share

    return untied


def _prune_to(
    model: fx.GraphModule,
    pruner: Any,
    params: PruneChannels,
    rows: TrainingRows,
    cost: Callable[[nn.Module], int],
    target: float,
) -> None:
    # What the network cost when its gradients were taken; none are yet.
    differentiated = math.inf
    while (now := cost(model)) > target:
        before = _width(model)
        if params.importance == "taylor" and now < _SAME_NETWORK[params.scope] * differentiated:
            _accumulate_gradients(model, rows)
            differentiated = now
        try:
            pruner.step()
            multiply_accumulates(model, rows.inputs[:1])
        except (RuntimeError, ValueError, IndexError) as e:
            raise UnsupportedError(
                f"prune_channels: the graph does not run after its channels were pruned: {str(e).splitlines()[0]}"
            ) from e
        # Out of steps, and the last one removed nothing: channels go in multiples, and each layer keeps some.
        if pruner.current_step >= pruner.iterative_steps and _width(model) == before:
            whole = f" in multiples of {params.channel_multiple} channels" if params.channel_multiple > 1 else ""
            raise UnsupportedError(
                f"prune_channels: cannot remove {params.ratio:.0%} of the {params.target}{whole}; ask for less"
            )
    model.zero_grad(set_to_none=True)


def _accumulate_gradients(model: nn.Module, rows: TrainingRows) -> None:
    part = rows.take(_TAYLOR_ROWS)
    model.zero_grad(set_to_none=True)
    outputs = joined(model(part.inputs))
    if part.targets is None or has_several_outputs(model, part):
        # Against its own answers a network has no error, and no gradient: what moves them most is what matters.
        # Random signs, as the sum of squares of answers of one length does not move (Hutchinson's trick).
        drawn = torch.randint(0, 2, outputs.shape, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
        (outputs.float() / spread_of(model, part) * drawn).mean().backward()
    elif rows.is_classification:
        nn.functional.cross_entropy(class_logits(model, part)(outputs), part.targets).backward()
    else:
        nn.functional.mse_loss(outputs, part.targets.reshape(outputs.shape)).backward()


def _width(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _last_layers(model: fx.GraphModule) -> list[nn.Module]:
    """The layers whose channels are the model's outputs: they may not change."""
    layers: list[nn.Module] = []
    seen: set[fx.Node] = set()
    # From the outputs back to the first layers: what lies between, such as a softmax, keeps the number of channels.
    queue = [n for node in model.graph.nodes if node.op == "output" for n in node.all_input_nodes]
    while queue:
        node = queue.pop()
        if node in seen:
            continue
        seen.add(node)
        layer = model.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            layers.append(layer)
        else:
            queue.extend(node.all_input_nodes)
    return layers
