"""An LSTM whose hidden state is projected, on edge devices."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgewright.artifact import Precision
from edgewright.profile import Platform
from tests.export.end_to_end import exported_answers, largest_difference

pytestmark = pytest.mark.filterwarnings("ignore")


class Reader(nn.Module):
    def __init__(self, *, both: bool, bias: bool) -> None:
        super().__init__()
        self.memory = nn.LSTM(5, 16, 2, proj_size=6, batch_first=True, bidirectional=both, bias=bias)
        self.plain = nn.LSTM(12 if both else 6, 4, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        states, _ = self.plain(self.memory(x)[0])
        return self.head(states[:, -1])


@pytest.mark.parametrize(("both", "bias"), [(False, True), (True, False)])
def test_a_projected_state_is_projected_there_too(both: bool, bias: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = np.random.default_rng(0).normal(size=(64, 7, 5)).astype(np.float32)
    module = Reader(both=both, bias=bias)
    found, expected = exported_answers(module, rows, Platform.EDGE_DEVICE, Precision.FLOAT32, tmp_path)
    assert largest_difference(found, expected) < 1e-5
