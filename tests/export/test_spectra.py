"""Networks that begin with a spectrum, as those for speech do, in int8: most numbers are far below the largest."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgewright.artifact import Precision
from edgewright.profile import Platform
from tests.export.end_to_end import exported_answers

pytestmark = pytest.mark.filterwarnings("ignore")
WINDOW, BINS = 64, 33
MIN_DECIBELS = 20


class Spectral(nn.Module):
    """Windows of sound, their spectrum by a fixed convolution, and a layer on its magnitudes or on its logarithms."""

    def __init__(self, *, is_logarithmic: bool) -> None:
        super().__init__()
        self.is_logarithmic = is_logarithmic
        angles = 2 * np.pi * np.outer(np.arange(BINS), np.arange(WINDOW)) / WINDOW
        waves = np.concatenate([np.cos(angles), np.sin(angles)]) * np.hanning(WINDOW)
        self.register_buffer("waves", torch.tensor(waves, dtype=torch.float32).unsqueeze(1))
        self.bank, self.out = nn.Linear(BINS, 20, bias=False), nn.Linear(20, 16)
        self.bank.weight.data.abs_()

    def forward(self, x):
        both = nn.functional.conv1d(x, self.waves, stride=WINDOW // 2)
        power = both[:, :BINS] ** 2 + both[:, BINS:] ** 2
        if self.is_logarithmic:
            return self.out(torch.log(self.bank(power.transpose(1, 2)) + 1e-5)).flatten(1)
        return self.out(self.bank(torch.sqrt(power).transpose(1, 2))).flatten(1)


@pytest.mark.parametrize("platform", Platform)
@pytest.mark.parametrize("is_logarithmic", [False, True], ids=["magnitudes", "logarithms"])
def test_quiet_parts_of_a_spectrum_are_kept(is_logarithmic: bool, platform: Platform, tmp_path: Path) -> None:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    loudness = 10 ** random.uniform(-2, 0, (64, 1, 1))
    sound = (loudness * random.normal(size=(64, 1, 320))).astype(np.float32)
    found, expected = exported_answers(
        Spectral(is_logarithmic=is_logarithmic), sound, platform, Precision.INT8, tmp_path
    )
    assert 10 * np.log10(np.square(expected).mean() / np.square(found - expected).mean()) >= MIN_DECIBELS
