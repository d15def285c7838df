"""Quantization without training, by rate and distortion.

Each weight gets the level that costs least in coded bits plus expected loss, and what it does wrong is made good by the
weights after it: the second-order update of Optimal Brain Surgeon in the column order of GPTQ (Frantar et al., arXiv
2210.17323) with a rate term, as in rate-distortion-optimized quantization (Wiedemann et al., DeepCABAC, arXiv
1907.11900). The loss is weighed by the Kronecker-factored Fisher information (Martens and Grosse, arXiv 1503.05671),
its output factor diagonal and from the model's own predictions, so that no labels are needed and one price of a bit
holds for all layers. Runs in a child process: imports torch.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from edgewright.errors import UnsupportedError
from edgewright.optimize.fuse import fuse
from edgewright.optimize.rows import TechniqueRows
from edgewright.optimize.training import each_output, logits_in, warped
from edgewright.recipe import CompactWeights

__all__ = ["apply", "compact_weights"]

# Share of the mean diagonal, as in GPTQ: inputs that calibration hardly excites make the Hessian nearly singular.
_DAMPING = 0.01
# Bits depend on the levels and the levels on the bits: each pass takes the shares that the one before left.
_PASSES = 3
# Around the step of high-rate theory, which holds for many levels; a coarse grid has few.
_COARSE_STEPS = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8)
# Rows that a Hessian is estimated from: a convolution has one for each place of each image, far more than it needs.
_POSITIONS = 20_000
_BATCH = 500
Layer = nn.Linear | nn.Conv2d


def apply(model: nn.Module, params: CompactWeights, rows: TechniqueRows) -> nn.Module:
    """See `compact_weights`."""
    return compact_weights(model, params, rows.calibration_inputs())


def compact_weights(model: nn.Module, params: CompactWeights, inputs: torch.Tensor) -> nn.Module:
    """A copy of ``model`` whose linear and 2-D convolution layers hold few distinct values that code well.

    ``inputs`` (N, ...) are calibration rows, without labels.

    Raises:
        UnsupportedError: the model has no such layer, or no output with a derivative.
    """
    # Folded by the exporter, a BatchNorm would multiply the levels by another number in each channel.
    original = fuse(model) if isinstance(model, fx.GraphModule) else model.eval()
    model = copy.deepcopy(original)
    inputs = inputs[: params.rows]
    if inputs.ndim == 4 and params.augment:
        inputs = warped(inputs, params.augment, torch.Generator().manual_seed(params.seed))
    importance = _output_importance(model, inputs, params.seed)
    if not importance:
        raise UnsupportedError("compact_weights: the network has no linear or convolution layer; leave it out")
    # In order of use: a layer's inputs then come from compacted layers, and its weights make good for those.
    for name, per_output in importance.items():
        layer = _layer(model, name)
        before, now = (_inputs_of(m, name, inputs, params.seed) for m in (original, model))
        _compact_layer(layer, per_output, before, now, params.price)
    return model


def _layer(model: nn.Module, name: str) -> Layer:
    layer = model.get_submodule(name)
    if not isinstance(layer, Layer):
        raise TypeError(f"{name} is a {type(layer).__name__}")
    return layer


@contextmanager
def _watched(model: nn.Module, watch: Callable[[str, torch.Tensor, torch.Tensor], None]) -> Iterator[None]:
    """Call ``watch(name, input, output)`` at each linear and ungrouped 2-D convolution layer."""
    handles = []
    for name, layer in model.named_modules():
        # A grouped convolution multiplies a part of the columns that `unfold` gives: it stays as it is.
        if isinstance(layer, Layer) and getattr(layer, "groups", 1) == 1:

            def hook(_: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor, name: str = name) -> None:
                watch(name, given[0], output)

            handles.append(layer.register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _output_importance(model: nn.Module, inputs: torch.Tensor, seed: int) -> dict[str, torch.Tensor]:
    """For each layer, in order of use: the expected squared gradient of the loss at each output, (O,), summed over
    positions. The loss is the model's own: labels drawn from its softmax, or unit noise where it has one output; of
    several outputs the sum."""
    generator = torch.Generator().manual_seed(seed)
    # A list, as a layer may be called several times.
    outputs: list[tuple[str, torch.Tensor]] = []
    sums: dict[str, torch.Tensor] = {}
    first = [scores.detach() for scores in _scores(model.eval()(inputs[:_BATCH]))]
    logits_of = [logits_in(scores) for scores in first]

    def watch(name: str, _: torch.Tensor, output: torch.Tensor) -> None:
        output.retain_grad()
        outputs.append((name, output))

    with _watched(model, watch):
        for batch in inputs.split(_BATCH):
            outputs.clear()
            # Drawn apart for each of several outputs: squared, what one moves then adds to what another does.
            losses = [
                _drawn_loss(of(scores), generator) for of, scores in zip(logits_of, _scores(model(batch)), strict=True)
            ]
            torch.stack(losses).sum().backward()
            for name, output in outputs:
                # A layer may reach no output.
                if output.grad is not None:
                    # Channels are second in a feature map (N, O, H, W), last in (N, ..., O).
                    squares = (output.grad**2).movedim(1 if output.ndim == 4 else -1, 0).flatten(1).sum(1)
                    sums[name] = sums.get(name, torch.zeros_like(squares)) + squares
    # The loss is of importance alone; the gradients that it left in the parameters are not wanted.
    model.zero_grad(set_to_none=True)
    return {name: total / len(inputs) for name, total in sums.items()}


def _scores(outputs: Any) -> list[torch.Tensor]:
    """The outputs that have a derivative, (N, K) each: one that is a class's index has none."""
    scores = [one.reshape(len(one), -1) for one in each_output(outputs) if one.requires_grad]
    if not scores:
        raise UnsupportedError("compact_weights: no output is a number with a derivative; leave it out")
    return scores


def _drawn_loss(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if logits.shape[1] > 1:
        drawn = torch.multinomial(logits.detach().softmax(1), 1, generator=generator)[:, 0]
        return nn.functional.cross_entropy(logits, drawn, reduction="sum")
    return (logits * torch.randn(logits.shape, generator=generator)).sum()


@torch.no_grad()
def _inputs_of(model: nn.Module, name: str, inputs: torch.Tensor, seed: int) -> torch.Tensor:
    """What a layer multiplies its weights with: (M, I) float32, of each row one position or as many as keep to
    `_POSITIONS` in all."""
    layer = _layer(model, name)
    seen: list[torch.Tensor] = []

    def kept(columns: torch.Tensor) -> torch.Tensor:
        """Of (N, positions, I) equally many positions of each row, (M, I)."""
        # The same positions for the same name and seed, so that two models' inputs can be compared.
        generator = torch.Generator().manual_seed(seed)
        each = max(1, _POSITIONS // len(inputs))
        positions = torch.randperm(columns.shape[1], generator=generator)[:each]
        return columns[:, positions].flatten(0, 1)

    def watch(at: str, given: torch.Tensor, _: torch.Tensor) -> None:
        if at != name:
            return
        if isinstance(layer, nn.Linear):
            # (N, I), or (N, ..., I) with a position for each element of a sequence or a picture.
            seen.append(kept(given.reshape(len(given), -1, given.shape[-1])))
        else:
            padding = layer.padding if not isinstance(layer.padding, str) else _same_padding(layer)
            columns = nn.functional.unfold(given, layer.kernel_size, layer.dilation, padding, layer.stride)
            seen.append(kept(columns.movedim(1, 2)))

    with _watched(model, watch):
        for batch in inputs.split(_BATCH):
            model(batch)
    return torch.cat(seen)


def _same_padding(layer: nn.Conv2d) -> tuple[int, int]:
    if layer.padding == "valid":
        return (0, 0)
    # PyTorch pads an even kernel once more at its end, which `unfold` cannot: that last position is left out here.
    high, wide = (d * (k - 1) // 2 for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
    return (high, wide)


@torch.no_grad()
def _compact_layer(
    layer: Layer, per_output: torch.Tensor, before: torch.Tensor, now: torch.Tensor, price: float
) -> None:
    # float64: the Hessian is inverted, and its small eigenvalues are below float32's rounding.
    weight = layer.weight.flatten(1).double()
    now, before = now.double(), before.double()
    mean_now, mean_before = now.mean(0), before.mean(0)
    # The bias takes the mean, so the weights answer for what varies.
    centred, centred_before = now - mean_now, before - mean_before
    hessian = centred.T @ centred / len(now)
    dead = hessian.diagonal() <= 1e-12
    damping = _DAMPING * hessian.diagonal().mean() + 1e-12
    damped = hessian + torch.eye(len(hessian), dtype=torch.float64) * damping
    cross = centred_before.T @ centred / len(now)
    # What reproduces the original's outputs best from the inputs as the compacted layers before give them.
    target = torch.linalg.solve(damped, (weight @ (cross - hessian)).T).T + weight
    # An input that never varies: its weight may be anything, as the bias takes the mean, and zero is the cheapest.
    target[:, dead] = 0
    # What carries most energy is settled first: what is left then lands where it does least.
    order = damped.diagonal().argsort(descending=True, stable=True)
    problem = _Problem(target[:, order], damped[order][:, order], per_output.double().clamp_min(1e-12), price)
    chosen = torch.empty_like(target, dtype=torch.float32)
    chosen[:, order] = problem.solve()
    layer.weight.copy_(chosen.reshape(layer.weight.shape).float())
    if layer.bias is not None:
        # From the weights as stored: what their rounding moves in the mean, the bias moves back.
        bias = layer.bias.double() + weight @ mean_before - layer.weight.flatten(1).double() @ mean_now
        layer.bias.copy_(_bias_on_grid(bias, problem.per_output, price))


def _bias_on_grid(bias: torch.Tensor, per_output: torch.Tensor, price: float) -> torch.Tensor:
    """The step at which a uniform grid's error costs as much as its bits: the high-rate optimum 6 ln(2)... of entropy
    coding, Delta^2 = 12 * D with dD/dR = -2 ln(2) D at the price."""
    # 0.6931 is ln(2): the price is of bits, not of nats.
    distortion = price / (2 * 0.6931 * per_output.mean())
    step = (12 * 2 * distortion).sqrt().float()
    # Adding zero turns -0.0, whose bits differ, into 0.0.
    return torch.round(bias.float() / step) * step + 0.0


@dataclass
class _Problem:
    """min over levels of 1/2 sum_o f_o (w_o - v_o) H (w_o - v_o)' + price * bits(levels)."""

    target: torch.Tensor
    hessian: torch.Tensor
    per_output: torch.Tensor
    price: float

    def solve(self) -> torch.Tensor:
        """The (O, I) weights on the best of a few grids."""
        # High-rate theory gives the scale: the step whose uniform error is worth the price of its bits.
        curvature = self.per_output.mean() * self.hessian.diagonal().mean()
        scale = (24 * self.price / (2 * 0.6931 * curvature)).sqrt()
        # The upper Cholesky factor of the inverse: its rows hold every update of the sweep (GPTQ, step 3).
        self._root = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(self.hessian)), upper=True)
        best: tuple[float, torch.Tensor] | None = None
        for factor in _COARSE_STEPS:
            # Through float32: the file holds level * step in float32, so that is the step to be judged.
            step = (scale * factor).float().double()
            cost, levels = self._levels(step)
            if best is None or cost < best[0]:
                best = (cost, levels.float() * step.float())
        if best is None:
            raise ValueError("no grid was tried")
        return best[1] + 0.0

    def _levels(self, step: torch.Tensor) -> tuple[float, torch.Tensor]:
        levels = torch.round(self.target / step)
        cost = float("inf")
        for _ in range(_PASSES):
            bits = _Bits(levels)
            levels = self._pass(step, bits)
            error = self.target - levels * step
            loss = 0.5 * ((error @ self.hessian) * error).sum(1) @ self.per_output
            cost = float(loss) + self.price * _Bits(levels).total(levels)
        return cost, levels

    def _pass(self, step: torch.Tensor, bits: "_Bits") -> torch.Tensor:
        """One sweep over the columns: choose, then move what is left of the row to the columns not chosen yet."""
        work, levels = self.target.clone(), torch.zeros_like(self.target)
        # GPTQ's lazy updates: columns beyond a block are moved once for all of it, by one matrix product.
        block = 64
        for start in range(0, work.shape[1], block):
            stop = min(start + block, work.shape[1])
            errors = torch.zeros(work.shape[0], stop - start, dtype=work.dtype)
            for j in range(start, stop):
                pivot = self._root[j, j]
                wanted = work[:, j]
                nearest = torch.round(wanted / step)
                # The nearest level; the one nearer to zero, and zero itself, which are often cheaper to code.
                candidates = torch.stack([nearest, nearest - nearest.sign(), torch.zeros_like(nearest)])
                # The loss that is left when the later columns make good: error squared over the inverse Hessian's
                # diagonal (OBS).
                damage = 0.5 * self.per_output * ((wanted - candidates * step) / pivot) ** 2
                cost = damage + self.price * bits.of(candidates, j)
                picked = candidates.gather(0, cost.argmin(0, keepdim=True))[0]
                levels[:, j] = picked
                errors[:, j - start] = (wanted - picked * step) / pivot
                work[:, j + 1 : stop] -= errors[:, j - start, None] * self._root[j, j + 1 : stop]
            work[:, stop:] -= errors @ self._root[start:stop, stop:]
        return levels


class _Bits:
    """What levels cost, by the shares that an earlier sweep had: rows and columns differ in density."""

    def __init__(self, levels: torch.Tensor) -> None:
        held = (levels != 0).double()
        # Half a count more: a tensor of zeros, or without any, has finite bits.
        overall = (held.mean() * held.numel() + 0.5) / (held.numel() + 1)
        # As if two places more had the tensor's own density: an empty row may fill again.
        rows = (held.sum(1) + 2 * overall) / (held.shape[1] + 2)
        columns = (held.sum(0) + 2 * overall) / (held.shape[0] + 2)
        # Rows and columns as independent, given the tensor's density: their log odds add up.
        logit = torch.logit(rows)[:, None] + torch.logit(columns)[None, :] - torch.logit(overall)
        probability = torch.sigmoid(logit)
        self._zero = -torch.log2(1 - probability)
        self._held = -torch.log2(probability)
        # Bounded, as one outlier would make the table as long as its level.
        sizes = levels.abs()[levels != 0].long().clamp_max(4095)
        counts = torch.bincount(sizes, minlength=4).double()
        # A geometric tail for what did not occur.
        smooth = counts + 0.3 * 0.5 ** torch.arange(len(counts), dtype=torch.float64)
        # One bit for the sign, then the size by how often it occurs.
        self._size = 1 - torch.log2(smooth / smooth.sum())
        self._size[0] = 0

    def of(self, levels: torch.Tensor, column: int) -> torch.Tensor:
        """Bits of (K, O) candidate levels of one column."""
        size = levels.abs().long().clamp_max(len(self._size) - 1)
        return torch.where(levels == 0, self._zero[:, column], self._held[:, column] + self._size[size])

    def total(self, levels: torch.Tensor) -> float:
        """Bits of the (O, I) levels."""
        size = levels.abs().long().clamp_max(len(self._size) - 1)
        return float(torch.where(levels == 0, self._zero, self._held + self._size[size]).sum())
