"""Attention whose masks are minus infinity, on every platform and in every number."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from edgewright.artifact import Precision
from edgewright.profile import Platform
from tests.export.end_to_end import exported_answers, largest_difference

pytestmark = pytest.mark.filterwarnings("ignore")
WIDTH, PLACES = 32, 6


class Causal(nn.Module):
    """Two heads of queries for each of keys, a place sees what is before it."""

    def __init__(self, *, by_hand: bool) -> None:
        super().__init__()
        self.by_hand = by_hand
        self.queries, self.keys = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH // 2)
        self.values, self.out = nn.Linear(WIDTH, WIDTH // 2), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        def heads(y, count):
            return y.unflatten(-1, (count, -1)).transpose(1, 2)

        q = heads(self.queries(x), 4)
        k, v = (heads(y, 2).repeat_interleave(2, 1) for y in (self.keys(x), self.values(x)))
        if self.by_hand:
            mask = torch.full((PLACES, PLACES), float("-inf")).triu(1)
            mixed = ((q @ k.mT) / 2 + mask).softmax(-1) @ v
        else:
            mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2)).flatten(1)


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.FLOAT16, Precision.INT8])
@pytest.mark.parametrize("platform", Platform)
@pytest.mark.parametrize("by_hand", [True, False], ids=["by hand", "fused"])
def test_a_place_sees_only_what_is_before_it(by_hand, platform, precision, tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = np.random.default_rng(0).normal(size=(64, PLACES, WIDTH)).astype(np.float32)
    found, expected = exported_answers(Causal(by_hand=by_hand), rows, platform, precision, tmp_path)
    # Without the mask the answers are off by the whole of the largest; 8 bits alone leave one in twenty.
    limit = {Precision.FLOAT32: 1e-5, Precision.FLOAT16: 5e-3, Precision.INT8: 0.06}[precision]
    assert largest_difference(found, expected) <= limit
