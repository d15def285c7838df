"""Constants that half precision loses, where they keep a logarithm from zero."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgewright.artifact import Precision
from edgewright.export.small_constants import is_lost_guard
from edgewright.profile import Platform
from tests.export.end_to_end import exported_answers


@pytest.mark.parametrize("platform", [Platform.IOS, Platform.EDGE_DEVICE])
def test_a_logarithm_is_kept_from_zero_in_half_precision(platform: Platform, tmp_path: Path) -> None:
    class Logarithm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(6, 6, bias=False)

        def forward(self, x):
            return torch.log(torch.relu(self.dense(x)) + 1e-10)

    module = Logarithm()
    nn.init.eye_(module.dense.weight)
    rows = np.random.default_rng(1).uniform(0.5, 2, size=(400, 6)).astype(np.float32)
    rows[-1] = 0  # not among those that are compared
    found, expected = exported_answers(module, rows, platform, Precision.FLOAT16, tmp_path)
    np.testing.assert_allclose(found, expected, atol=2e-2)
    assert expected[-1, 0] == pytest.approx(-23.03, abs=0.01)


def test_a_guard_is_lost_where_half_precision_has_fewer_digits() -> None:
    small, large = (np.array(number, np.float32) for number in (1e-5, 1e-3))
    assert is_lost_guard("Add", [small], "Log")
    assert is_lost_guard("maximum", [small], "log")
    assert not is_lost_guard("Add", [large], "Log")
    assert not is_lost_guard("Add", [small], "Sqrt")
    assert not is_lost_guard("Add", [np.array(0, np.float32)], "Log")
