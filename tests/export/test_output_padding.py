"""Transposed convolutions whose result is longer or shorter than their input asks for."""

from pathlib import Path

import numpy as np
import pytest
from torch import nn

from edgewright.artifact import Precision
from edgewright.profile import Platform
from tests.export.end_to_end import exported_answers, largest_difference

pytestmark = pytest.mark.filterwarnings("ignore")
KINDS = {
    "no padding": nn.ConvTranspose2d(3, 4, 3, stride=2, output_padding=1),
    "uneven": nn.ConvTranspose2d(3, 4, 5, stride=(3, 1), padding=(0, 2), output_padding=(2, 0)),
    "past the end": nn.ConvTranspose2d(3, 4, 3, stride=4, padding=1, output_padding=3),
    "groups": nn.ConvTranspose2d(4, 8, 3, stride=2, padding=1, output_padding=1, groups=2, dilation=2),
    "three axes": nn.ConvTranspose3d(2, 3, 3, stride=2, padding=1, output_padding=1),
    "one axis": nn.ConvTranspose1d(3, 4, 3, stride=3, output_padding=2, bias=False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_added_to_the_result_is_there(kind: str, tmp_path: Path) -> None:
    layer = KINDS[kind]
    sizes = {3: (9,), 4: (6, 7), 5: (4, 3, 4)}[layer.weight.dim()]
    rows = np.random.default_rng(0).normal(size=(12, layer.in_channels, *sizes)).astype(np.float32)
    module = nn.Sequential(layer, nn.ReLU())
    found, expected = exported_answers(module, rows, Platform.IOS, Precision.FLOAT32, tmp_path)
    assert found.shape == expected.shape
    assert largest_difference(found, expected) < 1e-5


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1),
        nn.ConvTranspose2d(3, 4, (3, 4), stride=2, padding=(0, 1)),
        nn.ConvTranspose2d(3, 4, 4, stride=2, padding=1),
    ],
    ids=["cut on both sides", "cut on one axis", "twice the size"],
)
def test_litert_cuts_as_much_as_the_padding_says(layer: nn.Module, tmp_path: Path) -> None:
    """Its converter takes no padding, and a padding by which sizes are multiplied by the stride."""
    rows = np.random.default_rng(0).normal(size=(12, 3, 6, 7)).astype(np.float32)
    module = nn.Sequential(layer, nn.ReLU())
    answers, expected = exported_answers(module, rows, Platform.ANDROID, Precision.FLOAT32, tmp_path)
    assert answers.shape == expected.shape
    assert largest_difference(answers, expected) < 1e-5
