"""Feature hints: the student's features, through a 1x1 regressor, follow the teacher's (Romero et al., FitNets, arXiv
1412.6550; trained together with the softened answers, not in a stage before). Runs in a child process: imports torch.
"""

import copy
from typing import Any

import torch
from torch import fx, nn

from edgewright.errors import UnsupportedError

__all__ = ["Hints", "matched_layers"]

Pairs = tuple[tuple[str, str], ...]
NamedLayer = tuple[str, nn.Module]
# By the number of axes of what they give.
_CONVOLUTIONS = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.Embedding)


class Hints:
    """The squared error between the features of pairs of layers; watches the student from when it is made."""

    def __init__(
        self, teacher: nn.Module, student: fx.GraphModule, pairs: Pairs, example: torch.Tensor, weight: float, seed: int
    ) -> None:
        """The regressors' first weights are drawn from ``seed``.

        Raises:
            UnsupportedError: a layer is not there, or the features of a pair differ in size.
        """
        # A copy: hooks on the teacher itself would see its answers to the loss as well.
        self._teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
        self._weight, self._pairs = weight, pairs
        self._of_teacher: dict[str, torch.Tensor] = {}
        self._of_student: dict[str, torch.Tensor] = {}
        self._handles = [
            *_watch(self._teacher, [name for name, _ in pairs], self._of_teacher),
            *_watch(student, [name for _, name in pairs], self._of_student),
        ]
        # One pass each, for the shapes that the regressors map between.
        with torch.no_grad():
            for model in (self._teacher, student.eval()):
                model(example)
        layers = dict(self._teacher.named_modules()), dict(student.named_modules())
        self._regressors = [self._regressor((t, layers[0][t]), (s, layers[1][s]), seed) for t, s in pairs]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What the regressors learn; they are not part of the student."""
        return [parameter for regressor in self._regressors for parameter in regressor.parameters()]

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """The weighted error for the batch that the student has just seen."""
        with torch.no_grad():
            self._teacher(inputs)
        # Under `precision: bfloat16` the student's features are bfloat16; the regressors compute in float32.
        errors = [
            nn.functional.mse_loss(regressor(self._of_student[student].float()), self._of_teacher[teacher])
            for (teacher, student), regressor in zip(self._pairs, self._regressors, strict=True)
        ]
        return self._weight * torch.stack(errors).mean()

    def close(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()

    def _regressor(self, teacher: NamedLayer, student: NamedLayer, seed: int) -> nn.Module:
        wanted, given = self._of_teacher[teacher[0]].shape, self._of_student[student[0]].shape
        axes = [_channel_axis(layer, len(shape)) for (_, layer), shape in ((teacher, wanted), (student, given))]
        axis = axes[0]
        # Of the axes beside the channels no regressor makes others.
        beside = [(*shape[1:axis], *shape[axis + 1 :]) for shape in (wanted, given)]
        if len(wanted) != len(given) or axis != axes[1] or beside[0] != beside[1]:
            raise UnsupportedError(
                f"hints: {teacher[0]} of the teacher gives {tuple(wanted)[1:]}, {student[0]} of the student "
                f"{tuple(given)[1:]}; the sizes beside the channels have to be equal"
            )
        # Drawn apart: the training's own random numbers do not depend on whether there are hints.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if axis == len(wanted) - 1:
                return nn.Linear(given[-1], wanted[-1])
            return _CONVOLUTIONS[len(wanted)](given[1], wanted[1], 1)


def _channel_axis(layer: nn.Module, axes: int) -> int:
    """Second in a feature map (N, C, ...), last in (N, ..., C)."""
    if isinstance(layer, _CHANNELS_LAST) or axes not in _CONVOLUTIONS:
        return axes - 1
    # A sequence is (N, T, C) unless a convolution or its normalization gives it.
    return 1 if axes > 3 or isinstance(layer, (nn.Conv1d, nn.BatchNorm1d)) else 2


def matched_layers(teacher: fx.GraphModule, student: fx.GraphModule, example: torch.Tensor) -> Pairs:
    """(layer of the teacher, of the student): of each spatial size that both have, the last convolution.

    Raises:
        UnsupportedError: no size is common.
    """
    of_teacher, of_student = (_last_of_each_size(model, example) for model in (teacher, student))
    pairs = tuple((name, of_student[size]) for size, name in of_teacher.items() if size in of_student)
    if not pairs:
        raise UnsupportedError(
            f"hints: teacher and student have no convolutions of one spatial size ({sorted(of_teacher)} and "
            f"{sorted(of_student)}); name the layers in `hint_layers`, or set `hints: 0`"
        )
    return pairs


def _last_of_each_size(model: fx.GraphModule, example: torch.Tensor) -> dict[tuple[int, ...], str]:
    names = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
    features: dict[str, torch.Tensor] = {}
    handles = _watch(model, names, features)
    try:
        with torch.no_grad():
            model.eval()(example)
    finally:
        for handle in handles:
            handle.remove()
    # In order of computation, so that the last of a size stays.
    return {tuple(feature.shape[2:]): name for name, feature in features.items()}


def _watch(model: nn.Module, names: list[str], features: dict[str, torch.Tensor]) -> list[Any]:
    known = dict(model.named_modules())
    absent = [name for name in names if name not in known]
    if absent:
        layers = ", ".join(name for name, layer in known.items() if name and not list(layer.children()))
        raise UnsupportedError(f"hints: there is no layer '{absent[0]}'; the network has: {layers}")

    def keep(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: torch.Tensor) -> None:
            features[name] = output

        return hook

    return [known[name].register_forward_hook(keep(name)) for name in names]
