"""Products with a constant on the left, among them resizes of images that are made of such, in fewer bits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgewright.artifact import Precision
from edgewright.profile import Platform
from tests.export.end_to_end import exported_answers, largest_difference

pytestmark = pytest.mark.filterwarnings("ignore")
IMAGE = (3, 20, 24)


class Product(nn.Module):
    """A convolution beside it: int8 wants a layer."""

    def __init__(self, product) -> None:
        super().__init__()
        self.product, self.layer = product, nn.Conv2d(3, 32, 3, 2)
        self.register_buffer("left", torch.linspace(-1, 2, 7 * IMAGE[1]).reshape(7, IMAGE[1]) * torch.ones(3, 1, 1))

    def forward(self, x):
        return self.layer(self.product(x, self.left)).flatten(1)


PRODUCTS = {
    "bicubic": lambda x, _: functional.interpolate(x, size=(17, 31), mode="bicubic"),
    "antialiased": lambda x, _: functional.interpolate(x, size=(9, 10), mode="bilinear", antialias=True),
    "by hand": lambda x, left: left @ x,
}


@pytest.mark.parametrize(
    ("platform", "precision"),
    [
        (Platform.ANDROID, Precision.INT8),
        (Platform.ANDROID, Precision.DYNAMIC_INT8),
        (Platform.EDGE_DEVICE, Precision.INT8),
    ],
)
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_constant_on_the_left_keeps_its_values(name, platform, precision, tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = np.random.default_rng(0).normal(size=(16, *IMAGE)).astype(np.float32)
    found, expected = exported_answers(Product(PRODUCTS[name]), rows, platform, precision, tmp_path)
    assert largest_difference(found, expected) <= 0.1
