"""Orders of values, on every platform."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgewright.artifact import Precision
from edgewright.profile import Platform
from tests.export.end_to_end import exported_answers, largest_difference

pytestmark = pytest.mark.filterwarnings("ignore")

ORDERS = {
    "sorted": lambda x: x.sort(1).values,
    "sorted the other way, by columns": lambda x: x.sort(dim=1, descending=True, stable=True).values,
    "places of the smallest": lambda x: x.argsort(-1)[..., :3].to(x.dtype),
    "both": lambda x: torch.cat([part.to(x.dtype) for part in x.sort(-1, descending=True)], 1),
    "the largest three": lambda x: x.topk(3, -1).values,
    "the smallest two of columns": lambda x: x.topk(2, 1, largest=False).values,
    "places of the smallest two": lambda x: x.topk(2, -1, largest=False).indices.to(x.dtype),
    "the largest and where": lambda x: x.max(1).values + x.argmax(1),
    "beside infinite ones": lambda x: (
        x.where(x < 1, -torch.inf).sort(-1, descending=True).indices.to(x.dtype).sort(-1)[0]
    ),
    "of bytes": lambda x: (x.abs() * 50).to(torch.uint8).sort(-1).values.to(x.dtype),
    "of whole numbers": lambda x: (3 * x).int().sort(-1).values.to(x.dtype),
}


class Ordered(nn.Module):
    def __init__(self, order) -> None:
        super().__init__()
        self.order = order

    def forward(self, x):
        return self.order(x)


@pytest.mark.parametrize("platform", Platform)
@pytest.mark.parametrize("name", ORDERS)
def test_orders_of_values(name: str, platform: Platform, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(8, 4, 7)).astype(np.float32)
    found, expected = exported_answers(Ordered(ORDERS[name]), rows, platform, Precision.FLOAT32, tmp_path)
    assert found.shape == expected.shape
    assert largest_difference(found, expected) <= 1e-6
