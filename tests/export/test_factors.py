"""Sums and differences with a factor, of real and of whole numbers, on every platform."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgewright.artifact import Precision
from edgewright.profile import Platform
from tests.export.end_to_end import exported_answers, largest_difference

pytestmark = pytest.mark.filterwarnings("ignore")


class Factors(nn.Module):
    def forward(self, x):
        flags, counts = (x > 0.5).to(torch.int64), (x * 3).to(torch.uint8)
        kept = (1.0 - flags) * x + torch.rsub(counts, 2.5, alpha=2) + torch.rsub(flags, 4)
        return kept + (2 - x) + torch.add(x, flags, alpha=3) + torch.sub(x, x * x, alpha=0.5)


@pytest.mark.parametrize("platform", Platform)
def test_factors_are_taken(platform: Platform, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).uniform(size=(16, 8)).astype(np.float32)
    found, expected = exported_answers(Factors(), rows, platform, Precision.FLOAT32, tmp_path)
    assert largest_difference(found, expected) <= 1e-6
