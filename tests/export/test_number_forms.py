"""Rounding, signs, classes of numbers and lengths, where they are easily something else."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgewright.artifact import Precision
from edgewright.errors import UnsupportedError
from edgewright.export.number_forms import STABLE_ORDERS
from edgewright.profile import Platform
from tests.export.end_to_end import exported_answers


class _Numbers(nn.Module):
    """Each of a row's own numbers."""

    def forward(self, x):
        y = x.flip(1)
        logarithm = torch.log(x)
        numbers = [torch.trunc(x), torch.fix(x), torch.round(x, decimals=1), torch.round(x, decimals=-1)]
        numbers += [torch.fmax(torch.sqrt(x), y), torch.fmin(torch.sqrt(x), y), torch.hypot(x, y), torch.copysign(y, x)]
        truths = [torch.isinf(logarithm), torch.isfinite(logarithm), torch.signbit(x), (x > 0) ^ (y > 1)]
        truths.append((x > 0) | (y < -1))
        return torch.cat([*numbers, *(truth.float() for truth in truths), x[:, :3].prod(1, keepdim=True)], 1)


class _Sums(nn.Module):
    """Lengths, and sums of exponentials."""

    def forward(self, x):
        angle = functional.cosine_similarity(x[:, :3] * 1e-4, x[:, 3:], dim=1)
        loss = functional.binary_cross_entropy_with_logits(
            x * 50, (x > 0).float(), pos_weight=torch.tensor(2.0), reduction="none"
        )
        masked = torch.softmax(x.masked_fill(x > -0.5, -torch.inf), 1).nan_to_num(0.0)
        return torch.cat([angle[:, None], loss, torch.logcumsumexp(x * 50, 1), masked], 1)


@pytest.mark.parametrize("platform", Platform)
@pytest.mark.parametrize("module", [_Numbers(), _Sums()], ids=["numbers", "sums"])
def test_numbers_are_torchs_in_their_special_cases(module: nn.Module, platform: Platform, tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(24, 6)).astype(np.float32) * 4
    rows[:4] = [[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], [0.0] * 6, [-0.0] * 6, [25, 35, -25, -0.05, 0.25, 0.0]]
    rows[4] = np.abs(rows[4])
    found, expected = exported_answers(module, rows, platform, Precision.FLOAT32, tmp_path)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("descending", [False, True])
def test_a_stable_order_is_torchs(descending: bool) -> None:
    x = torch.randint(0, 3, (4, 5, 6), generator=torch.Generator().manual_seed(1)).float()
    found = STABLE_ORDERS["aten.sort.stable"](x, stable=True, dim=1, descending=descending)
    for one, other in zip(found, torch.sort(x, stable=True, dim=1, descending=descending), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("platform", Platform)
def test_whole_numbers_are_shifted_by_others(platform: Platform, dtype: torch.dtype, tmp_path: Path) -> None:
    class Shifted(nn.Module):
        def forward(self, x):
            places = torch.arange(x.shape[1]).to(x.dtype)
            return (x >> places) + torch.bitwise_left_shift(x, places) + 2 * ~x

    rows = torch.arange(-60, 60, dtype=dtype).reshape(20, 6).numpy()
    answers, expected = exported_answers(Shifted(), rows, platform, Precision.FLOAT32, tmp_path)
    np.testing.assert_array_equal(answers, expected)


def test_bits_that_litert_does_not_take_are_refused_in_one_line(tmp_path: Path) -> None:
    class Both(nn.Module):
        def forward(self, x):
            return x & x.flip(1)

    rows = np.arange(120, dtype=np.int32).reshape(20, 6)
    with pytest.raises(UnsupportedError, match=r"LiteRT has no operator for BitwiseAnd, as .*; write it") as e:
        exported_answers(Both(), rows, Platform.ANDROID, Precision.FLOAT32, tmp_path)
    assert "\n" not in str(e.value)
