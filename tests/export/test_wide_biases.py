"""Dense layers whose result is scaled by a constant: the converter folds it in, and may leave a bias of four axes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgewright.artifact import Format, Precision
from edgewright.export import tflite
from edgewright.export.runs import outputs_of
from edgewright.profile import Platform
from tests.export.end_to_end import exported_answers, largest_difference

pytestmark = pytest.mark.filterwarnings("ignore")
CHANNELS = 24
MIN_DECIBELS = 25


class Scaled(nn.Module):
    """As ConvNeXt and EdgeNeXt scale a branch: dense layers over the last of four axes, times a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, CHANNELS, 4, 4), nn.Conv2d(CHANNELS, CHANNELS, 3, groups=CHANNELS)
        self.wide, self.dense = nn.Linear(CHANNELS, 2 * CHANNELS), nn.Linear(2 * CHANNELS, CHANNELS)
        self.gamma = nn.Parameter(torch.linspace(0.5, 2, CHANNELS))

    def forward(self, x):
        branch = self.depthwise(self.stem(x)).permute(0, 2, 3, 1)
        branch = self.gamma * self.dense(nn.functional.gelu(self.wide(branch)))
        return branch.permute(0, 3, 1, 2).mean((2, 3))


class Shifted(nn.Module):
    """The same constant is added to the layer's result and multiplied with what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.dense = nn.Conv2d(3, CHANNELS, 4, 4), nn.Linear(CHANNELS, CHANNELS, bias=False)
        self.register_buffer("shift", torch.linspace(-1, 2, CHANNELS).reshape(1, 1, 1, CHANNELS))

    def forward(self, x):
        places = self.stem(x).permute(0, 2, 3, 1)
        return (self.dense(places) + self.shift + torch.tanh(places * self.shift)).flatten(1)


def images() -> np.ndarray:
    torch.manual_seed(0)
    return np.random.default_rng(0).normal(size=(32, 3, 16, 16)).astype(np.float32)


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.DYNAMIC_INT8, Precision.FLOAT32])
def test_a_bias_has_one_axis_in_an_android_file(precision: Precision, tmp_path: Path) -> None:
    found, expected = exported_answers(Scaled(), images(), Platform.ANDROID, precision, tmp_path)
    assert 10 * np.log10(np.square(expected).mean() / np.square(found - expected).mean()) >= MIN_DECIBELS
    for path in tmp_path.rglob("*.tflite"):
        model = tflite.load(path)
        dense = [o for o in model.subgraphs[0].operators if tflite.operator_name(model, o) == "FULLY_CONNECTED"]
        assert [shape(model, o.inputs[2]) for o in dense] == [[2 * CHANNELS], [CHANNELS]]


def test_who_else_reads_a_bias_keeps_its_axes(tmp_path: Path) -> None:
    rows, module = images(), Shifted()
    _, expected = exported_answers(module, rows, Platform.ANDROID, Precision.FLOAT32, tmp_path)
    model = tflite.load(next(tmp_path.rglob("*.tflite")))
    dense, product = reader(model, "FULLY_CONNECTED"), reader(model, "MUL")
    wide = product.inputs[1]
    assert shape(model, wide) == [1, 1, 1, CHANNELS]
    dense.inputs[2] = wide
    tflite.flatten_biases(model)
    assert shape(model, dense.inputs[2]) == [CHANNELS]
    assert product.inputs[1] == wide
    assert shape(model, wide) == [1, 1, 1, CHANNELS]
    tflite.save(model, tmp_path / "shared.tflite")
    declared = tflite.tensors(tmp_path / "shared.tflite")
    name = declared.outputs[0].name
    found = outputs_of(tmp_path / "shared.tflite", Format.TFLITE, {declared.inputs[0].name: rows}, [name])[name]
    assert largest_difference(found, expected) <= 1e-5


def reader(model: Any, kind: str) -> Any:
    return next(o for o in model.subgraphs[0].operators if tflite.operator_name(model, o) == kind)


def shape(model: Any, tensor: int) -> list[int]:
    return [int(n) for n in model.subgraphs[0].tensors[tensor].shape]
