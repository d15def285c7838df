"""Unstructured pruning: gradual, on a cubic ramp (Zhu and Gupta, "To prune, or not to prune", arXiv 1710.01878).

Magnitude pruning with retraining as in Han et al., "Learning both Weights and Connections", arXiv 1506.02626; masks
grow while the network trains, and what has fallen stays zero. N:M keeps N of every M inputs (2:4: Mishra et
al., arXiv 2104.08378). ``rate`` weighs what a weight does against the bits of its place, as rate-distortion-optimized
quantization does (Wiedemann et al., DeepCABAC, arXiv 1907.11900). Runs in a child process: imports torch.
"""

import copy
import math

import torch
from torch import nn

from edgewright.errors import UnsupportedError
from edgewright.optimize.rows import TechniqueRows
from edgewright.optimize.training import Tensors, TrainingRows, fit, kept_zeros, weight_names
from edgewright.recipe import Prune

__all__ = ["apply", "prune"]

# Steps from mask to mask: each mask is a selection over all weights.
_UPDATE_EVERY = 20
# What a held weight takes beside its place: a sign and a size.
_SIGN_AND_SIZE_BITS = 2.5


def apply(model: nn.Module, params: Prune, rows: TechniqueRows) -> nn.Module:
    """See `prune`."""
    return prune(model, params, rows.training() if params.training else None)


def prune(model: nn.Module, params: Prune, rows: TrainingRows | None) -> nn.Module:
    """A copy of ``model`` with ``params.sparsity`` of the weights of its linear and convolution layers zero.

    ``rows`` are training rows; None allows pruning without training only.

    Raises:
        UnsupportedError: the model has no such layer, or training is asked for without rows.
    """
    model = copy.deepcopy(model)
    names = weight_names(model)
    if not names:
        raise UnsupportedError("prune: the network has no linear or convolution layer; leave this technique out")
    masks = _Masks(names, params)
    if params.training is None:
        parameters = dict(model.named_parameters())
        masks.update({n: parameters[n].detach() for n in names}, params.sparsity)
        with torch.no_grad():
            for name in names:
                # Adding zero turns -0.0, whose bits differ, into 0.0.
                parameters[name].mul_(masks.of[name]).add_(0.0)
        return model
    if rows is None:
        raise UnsupportedError("prune: training needs training rows; give data, or set `training: null`")
    _train(model, params, rows, masks)
    return model


def _train(model: nn.Module, params: Prune, rows: TrainingRows, masks: "_Masks") -> None:
    if params.training is None:
        raise ValueError("called without training")
    # Zeros of an earlier technique stay, whatever the masks say.
    earlier = kept_zeros(model)
    latest: Tensors = {}
    steps = 0

    def effective(values: Tensors) -> Tensors:
        latest.update(values)
        return earlier({n: v * masks.of[n] if n in masks.of else v for n, v in values.items()})

    def on_step(done: float) -> None:
        nonlocal steps
        steps += 1
        ramped = min(1.0, done / params.ramp) if params.ramp else 1.0
        # After the last step in any case: what is written has the sparsity that was asked for.
        if steps % _UPDATE_EVERY == 0 or done == 1.0:
            masks.update({n: latest[n].detach() * masks.of.get(n, 1.0) for n in masks.names}, _cubic(params, ramped))

    # Without a ramp all falls at once, before the first step.
    if not params.ramp:
        parameters = dict(model.named_parameters())
        masks.update({n: parameters[n].detach() for n in masks.names}, params.sparsity)
    fit(model, rows, params.training, effective=effective, on_step=on_step, teacher=copy.deepcopy(model))


def _cubic(params: Prune, done: float) -> float:
    return params.sparsity * float(1 - (1 - done) ** 3)


class _Masks:
    """Which weights stand, by name."""

    def __init__(self, names: list[str], params: Prune) -> None:
        self.names = names
        self.of: Tensors = {}
        self._scope = params.scope

    def update(self, weights: Tensors, sparsity: float) -> None:
        """Choose anew: ``sparsity`` of the weights, which hold zeros where they are masked already, shall fall."""
        if ":" in self._scope:
            # The pattern is all or nothing: it holds from the first step.
            nonzero, group = (int(part) for part in self._scope.split(":"))
            self.of = {n: _some_of_each(w, nonzero, group) for n, w in weights.items()}
        elif self._scope == "layer":
            self.of = {n: _standing(w.abs(), sparsity) for n, w in weights.items()}
        else:
            scores = {n: w.abs() / _spread(w).sqrt() for n, w in weights.items()}
            if self._scope == "rate":
                # Squared, a magnitude is a loss, and a loss is to be held against bits.
                scores = {n: s / _bits_of_places(weights[n]).sqrt() for n, s in scores.items()}
            # One threshold for all layers: those whose weights matter less lose more.
            standing = _standing(torch.cat([s.flatten() for s in scores.values()]), sparsity)
            parts = standing.split([s.numel() for s in scores.values()])
            self.of = {n: part.reshape(s.shape) for (n, s), part in zip(scores.items(), parts, strict=True)}


def _spread(weight: torch.Tensor) -> torch.Tensor:
    """The standard deviation of the weights that are not zero; where they do not vary, as one weight does not, their
    magnitude."""
    held = weight[weight != 0]
    if not len(held):
        return torch.tensor(1.0)
    # Without Bessel's correction a single weight would do; with it, results stay as they were measured.
    spread = held.std(correction=min(1, len(held) - 1))
    return spread if spread > 0 else held.abs().mean()


def _standing(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    """1 where a weight stands, 0 for the ``sparsity`` of least score, in the shape of the scores."""
    flat = scores.flatten()
    fallen = round(sparsity * len(flat))
    if not fallen:
        return torch.ones_like(scores)
    limit = flat.kthvalue(fallen).values  # counts from 1
    standing = flat > limit
    # Of equal scores as many fall as are wanted, in a fixed random order: in that of their places, whole channels
    # would. What is zero has fallen already.
    if limit > 0:
        ties = (flat == limit).nonzero()[:, 0]
        order = torch.randperm(len(ties), generator=torch.Generator().manual_seed(0))
        standing[ties[order[fallen - int((flat < limit).sum()) :]]] = True
    return standing.float().reshape(scores.shape)


def _bits_of_places(weight: torch.Tensor) -> torch.Tensor:
    """What holding a weight at each place costs more than a zero there, bits, by its row's and column's density."""
    held = (weight != 0).flatten(1).float()
    # The logit of 0 and of 1 is infinite.
    overall = held.mean().clamp(1e-4, 1 - 1e-4)

    def odds(density: torch.Tensor, places: int) -> torch.Tensor:
        # As if two places more had the tensor's own density: an empty row may fill again.
        return ((density * places + 2 * overall) / (places + 2)).logit()

    logit = odds(held.mean(1, keepdim=True), held.shape[1]) + odds(held.mean(0, keepdim=True), held.shape[0])
    bits = (overall.logit() - logit) / math.log(2) + _SIGN_AND_SIZE_BITS
    # No place costs less than the sign of what it holds.
    return bits.clamp_min(1.0).reshape(weight.shape)


def _some_of_each(weight: torch.Tensor, nonzero: int, group: int) -> torch.Tensor:
    rows = weight.abs().flatten(1)
    whole = rows.shape[1] // group * group
    # (outputs, groups, group)
    groups = rows[:, :whole].reshape(len(rows), -1, group)
    best = groups.topk(nonzero, dim=2).indices
    mask = torch.zeros_like(groups).scatter_(2, best, 1.0).reshape(len(rows), whole)
    # Inputs beyond the last whole group stay.
    return torch.cat([mask, torch.ones_like(rows[:, whole:])], 1).reshape(weight.shape)
