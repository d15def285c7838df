"""One training loop for every technique that trains. Runs in a child process: imports torch.

Only training rows come in here: which rows those are is decided where the data is read (`rows.training_rows`).
"""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from edgewright.errors import UnsupportedError
from edgewright.failures import one_line
from edgewright.recipe import Training

__all__ = [
    "TrainingRows",
    "class_logits",
    "distillation_loss",
    "each_output",
    "fit",
    "has_several_outputs",
    "joined",
    "kept_zeros",
    "logits_in",
    "predictions",
    "source_loss",
    "spread_of",
    "warped",
    "weight_names",
]

Tensors = dict[str, torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
Logits = Callable[[torch.Tensor], torch.Tensor]
_MIN_PROBABILITY = 1e-6  # float32 holds one less this, and its logarithm is finite
# Probabilities add up to 1 within this: float32 rounds each of a thousand classes.
_SUM_TOLERANCE = 1e-3
# The learning rate never falls below this share of where it began.
_FLOOR = 0.01
# At strength 1: a rotation in degrees, scale and shear as shares, a shift in half widths of the image.
_DEGREES, _SCALE, _SHEAR, _SHIFT = 12.0, 0.12, 0.12, 0.14


@dataclass(frozen=True)
class TrainingRows:
    """Inputs (N, ...) float32 and targets: (N,) int64 classes, (N,) / (N, K) float32 values, or None: the answers of
    the network as it was are then what is learnt.
    """

    inputs: torch.Tensor
    targets: torch.Tensor | None

    @property
    def is_classification(self) -> bool:
        """Whether the targets are class indices."""
        return self.targets is not None and not self.targets.dtype.is_floating_point

    def take(self, count: int) -> "TrainingRows":
        """The first rows."""
        return TrainingRows(self.inputs[:count], None if self.targets is None else self.targets[:count])


def class_logits(model: nn.Module, rows: TrainingRows) -> Logits:
    """What makes of the model's outputs a logit for each class, (N, classes); of a regressor's nothing.

    One score a row is that of the second of two classes: a probability where the outputs stay in 0-1 on these rows,
    else a logit, as when the model was taken in (`edgewright.intake.answers`). Several are probabilities where a row's
    add up to 1, as behind the softmax that a Keras classifier ends in: their logarithms are the logits.
    """
    if not rows.is_classification:
        return lambda outputs: outputs
    first = predictions(model, rows.take(1000).inputs)
    if first[0].numel() > 1:
        return logits_in(first)
    # Not `flatten(1)`, which scores (N,) have no axis for.
    if first.min() < 0 or first.max() > 1:
        return lambda outputs: nn.functional.pad(outputs.reshape(-1, 1), (1, 0))
    return lambda outputs: nn.functional.pad(torch.logit(outputs.reshape(-1, 1), _MIN_PROBABILITY), (1, 0))


def logits_in(scores: torch.Tensor) -> Logits:
    """What makes logits of outputs such as the scores (N, K, ...): their logarithms where these are probabilities."""
    scores = scores.detach().float()
    if scores.shape[1] < 2 or scores.min() < 0 or not ((scores.sum(1) - 1).abs() <= _SUM_TOLERANCE).all():
        return lambda outputs: outputs
    # A softmax underflows to 0, whose logarithm is infinite.
    return lambda outputs: outputs.float().clamp_min(torch.finfo(torch.float32).tiny).log()


def weight_names(model: nn.Module) -> list[str]:
    """The weights of linear and convolution layers, in order: what the techniques compress."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return [f"{name}.weight" for name, layer in model.named_modules() if isinstance(layer, kinds)]


def kept_zeros(model: nn.Module) -> Callable[[Tensors], Tensors]:
    """Hold at zero what is zero now: a later step must not undo the sparsity of an earlier one."""
    weights = dict(model.named_parameters())
    # Only where there are zeros: a mask of ones would cost a product in every step.
    masks = {name: (weights[name] != 0).float() for name in weight_names(model) if (weights[name] == 0).any()}
    return lambda values: {n: v * masks[n] if n in masks else v for n, v in values.items()}


def fit(
    model: nn.Module,
    rows: TrainingRows,
    params: Training,
    *,
    effective: Callable[[Tensors], Tensors] | None = None,
    extra: list[nn.Parameter] | None = None,
    on_step: Callable[[float], None] | None = None,
    teacher: nn.Module | None = None,
    penalty: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> None:
    """Train in place; afterwards the model holds its effective weights.

    ``effective`` maps the trained parameters to those that the model computes with (masked, quantized, shared);
    without it zeros stay zero. ``extra`` are parameters of that mapping. ``on_step`` is told the share of the
    training that is done. ``teacher`` is who ``params.distill`` listens to. ``penalty`` of a batch of inputs is added
    to the loss, right after the model has seen them.

    Raises:
        UnsupportedError: the network refuses a batch, as BatchNorm does one row of one position.
    """
    effective = effective or kept_zeros(model)
    # Beside the model, which computes with what `effective` makes of them. Whole numbers have no gradient, and stay.
    trained: Tensors = {
        n: nn.Parameter(p.detach().clone(memory_format=_layout(p)))
        for n, p in model.named_parameters()
        if p.is_floating_point()
    }
    optimizer = _optimizer([*trained.values(), *(extra or [])], params)
    steps = params.epochs * len(_batch_sizes(len(rows.inputs), params.batch_size))
    loss_of = _loss_of(model, teacher, rows, params)
    model.train()
    torch.manual_seed(params.seed)  # of dropout, which the network may hold
    # Lazily, as the augmentation and the order of rows draw from the same generator.
    for step, (inputs, targets) in enumerate(_batches(rows, params)):
        for group in optimizer.param_groups:
            group["lr"] = params.learning_rate * _share_of_rate(params.schedule, step / steps)
        with torch.autocast("cpu", torch.bfloat16, enabled=params.precision == "bfloat16"):
            try:
                logits = functional_call(model, effective(trained), (inputs,))
            except ValueError as e:
                # BatchNorm's; another fault of the network is told as it is.
                if "more than 1 value per channel" not in str(e):
                    raise
                raise UnsupportedError(
                    f"training: the network does not take a batch of {len(inputs)} row(s): {one_line(e)}; give a "
                    "larger `batch_size` or more training rows, or leave training out"
                ) from e
        # The loss in float32: bfloat16 has 8 significant bits.
        loss = loss_of(inputs, joined(logits).float(), targets)
        if penalty:
            loss = loss + penalty(inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if on_step:
            on_step((step + 1) / steps)
    model.eval()
    _write(model, effective(trained))


def _share_of_rate(schedule: str, done: float) -> float:
    """Of the learning rate, when that share of the steps is done."""
    match schedule:
        case "cosine":
            return _FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * done))
        case "linear":
            return _FLOOR + (1 - _FLOOR) * (1 - done)
        case "step":
            return 0.1 ** ((done >= 0.5) + (done >= 0.75))
        case _:
            return 1.0


def joined(outputs: Any) -> torch.Tensor:
    """The one output (N, ...), or all of several, flat and side by side (N, elements)."""
    if isinstance(outputs, torch.Tensor):
        return outputs
    # Not `flatten(1)`, which an output of one number a row, (N,), has no axis for.
    flat = [output.reshape(len(output), -1) for output in each_output(outputs)]
    return torch.cat([part.float() for part in flat], dim=1)


def each_output(outputs: Any) -> list[torch.Tensor]:
    """Every tensor of the outputs, (N, ...) each, in order."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [tensor for output in outputs for tensor in each_output(output)]


@torch.no_grad()
def predictions(model: nn.Module, inputs: torch.Tensor, batch_size: int = 1000) -> torch.Tensor:
    """The model's outputs (N, ...), in eval mode; see `joined`."""
    was_training = model.training
    model.eval()
    outputs = torch.cat([joined(model(inputs[i : i + batch_size])) for i in range(0, len(inputs), batch_size)])
    model.train(was_training)
    return outputs


def _write(model: nn.Module, values: Tensors) -> None:
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in values.items():
            # Adding zero turns -0.0, whose bits differ, into 0.0.
            parameters[name].copy_(value + 0.0)


def _layout(tensor: torch.Tensor) -> torch.memory_format:
    return torch.channels_last if tensor.ndim == 4 else torch.preserve_format


def _optimizer(parameters: list[torch.Tensor], params: Training) -> torch.optim.Optimizer:
    if params.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=params.learning_rate, momentum=0.9, nesterov=True, weight_decay=params.weight_decay
        )
    kind = torch.optim.AdamW if params.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr=params.learning_rate, weight_decay=params.weight_decay)


def distillation_loss(
    teacher: nn.Module, rows: TrainingRows, params: Training, *, student: nn.Module | None = None
) -> Loss:
    """(inputs, outputs, targets) to the loss of Hinton et al., "Distilling the Knowledge in a Neural Network",
    arXiv 1503.02531: the teacher's softened answers weigh ``params.distill``, their KL term scaled by T squared.

    The outputs are those of ``student``; left out, they mean what the teacher's do.
    """
    # A copy that stays as it is, without gradients of its own.
    teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
    hard, alpha, temperature = _loss(rows), params.distill, params.temperature
    logits_of, logits_of_student = class_logits(teacher, rows), _logits_of_student(student, teacher, rows)

    def loss(inputs: torch.Tensor, outputs: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        with torch.no_grad():
            answers = logits_of(teacher(inputs))
        outputs = logits_of_student(outputs)
        if not rows.is_classification:
            return alpha * nn.functional.mse_loss(outputs, answers) + (1 - alpha) * hard(outputs, targets)
        soft = nn.functional.kl_div(
            (outputs / temperature).log_softmax(1),
            (answers / temperature).log_softmax(1),
            reduction="batchmean",
            log_target=True,
        )
        return alpha * temperature**2 * soft + (1 - alpha) * hard(outputs, targets)

    return loss


def _loss_of(model: nn.Module, teacher: nn.Module | None, rows: TrainingRows, params: Training) -> Loss:
    if rows.targets is None or has_several_outputs(teacher or model, rows):
        return source_loss(teacher or model, rows)
    if teacher and params.distill:
        return distillation_loss(teacher, rows, params, student=model)
    hard, logits_of = _loss(rows), _logits_of_student(model, teacher or model, rows)
    return lambda _, outputs, targets: hard(logits_of(outputs), targets)


def _logits_of_student(student: nn.Module | None, teacher: nn.Module, rows: TrainingRows) -> Logits:
    """As the teacher's, except that a user's own network may end in logits where the teacher ends in a softmax."""
    if student is None or student is teacher or not rows.is_classification:
        return class_logits(teacher, rows)
    # One score is the teacher's kind: an untrained network's logits may all lie in 0-1.
    is_single = predictions(student, rows.take(1).inputs).numel() == 1
    return class_logits(teacher if is_single else student, rows)


@torch.no_grad()
def has_several_outputs(model: nn.Module, rows: TrainingRows) -> bool:
    """Whether it answers with more than one tensor: labels are then of one of them at most."""
    was_training = model.training
    answers = model.eval()(rows.take(1).inputs)  # one row has no statistics of its own for a normalization
    model.train(was_training)
    return not isinstance(answers, torch.Tensor)


def source_loss(source: nn.Module, rows: TrainingRows) -> Loss:
    """The squared difference from the answers of ``source`` as it is now, over all of its outputs, in units of the
    variance of each element over the first thousand rows: no labels are needed, and no output outweighs another.
    """
    # A copy, as `source` may be the network that is trained.
    source = copy.deepcopy(source).eval().requires_grad_(False)
    scale = spread_of(source, rows)

    def loss(inputs: torch.Tensor, outputs: torch.Tensor, _: torch.Tensor | None) -> torch.Tensor:
        with torch.no_grad():
            answers = joined(source(inputs)).float()
        return nn.functional.mse_loss(outputs / scale, answers / scale)

    return loss


def spread_of(model: nn.Module, rows: TrainingRows) -> torch.Tensor:
    """The standard deviation of each element of the outputs over the first thousand rows, as good as never zero."""
    # Without Bessel's correction: the variance of a single row is 0, not NaN.
    spread = predictions(model, rows.take(1000).inputs).float().var(dim=0, correction=0)
    # An element that hardly varies would outweigh all others.
    return spread.clamp_min(max(1e-3 * float(spread.mean()), 1e-12)).sqrt()


def _loss(rows: TrainingRows) -> Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]:
    measure = nn.CrossEntropyLoss() if rows.is_classification else nn.MSELoss()

    def loss(outputs: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        if targets is None:
            raise ValueError("a loss against labels was asked for without any")
        # (N,) targets against (N, 1) outputs would be broadcast, each compared with all.
        loss_value: torch.Tensor = measure(
            outputs, targets if rows.is_classification else targets.reshape(outputs.shape)
        )
        return loss_value

    return loss


def _batches(rows: TrainingRows, params: Training) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    generator = torch.Generator().manual_seed(params.seed)
    is_image = rows.inputs.ndim == 4
    for _ in range(params.epochs):
        order = torch.randperm(len(rows.inputs), generator=generator)
        for part in order.split(_batch_sizes(len(order), params.batch_size)):
            inputs = rows.inputs[part]
            if is_image and params.augment:
                inputs = warped(inputs, params.augment, generator)
            yield inputs.contiguous(memory_format=_layout(inputs)), None if rows.targets is None else rows.targets[part]


def _batch_sizes(rows: int, batch_size: int) -> list[int]:
    """Of an epoch, the rest last; a rest of one row goes into the batch before it."""
    whole, rest = divmod(rows, batch_size)
    sizes = [batch_size] * whole + [rest] * (rest > 0)
    # One row has no variance, which BatchNorm divides by.
    if rest == 1 and whole:
        sizes[-2:] = [batch_size + 1]
    return sizes


def warped(images: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """(N, C, H, W) images under random affine maps: rotation, scale, shear and shift, each uniform."""

    def draw(limit: float) -> torch.Tensor:
        return (torch.rand(len(images), generator=generator) * 2 - 1) * limit * strength

    angle = draw(_DEGREES * math.pi / 180)
    wide, high, shear = 1 + draw(_SCALE), 1 + draw(_SCALE), draw(_SHEAR)
    rows = [
        torch.stack([wide * torch.cos(angle), shear - high * torch.sin(angle), draw(_SHIFT)], 1),
        torch.stack([wide * torch.sin(angle), high * torch.cos(angle), draw(_SHIFT)], 1),
    ]
    grid = nn.functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, align_corners=False)
