"""Fourier transforms in real numbers alone, beside torch's own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import fx, nn

from edgewright.artifact import Precision
from edgewright.export.real_pairs import with_real_pairs
from edgewright.profile import Platform
from tests.export.end_to_end import exported_answers

pytestmark = pytest.mark.filterwarnings("ignore")


class _Module(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


_CASES = {
    "fft, real part": lambda x: torch.fft.fft(x).real,
    "fft along another axis": lambda x: torch.fft.fft(x, dim=1, norm="ortho").imag,
    "all axes of a row": lambda x: torch.fft.fftn(x, dim=(1, 2)).real,
    "fft in fft": lambda x: torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real,
    "magnitudes": lambda x: torch.fft.rfft(x, norm="forward").abs(),
    "parts as an axis": lambda x: torch.view_as_real(torch.fft.rfft2(x)).flatten(1),
    "a filter": lambda x: torch.fft.irfft(torch.fft.rfft(x) * torch.linspace(0, 1, 5), n=8),
    "a correlation": lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * torch.fft.rfft2(x.flip(1)).conj()),
    "cut first": lambda x: torch.fft.fft(x, n=5).real,
    "filled up first": lambda x: torch.fft.rfft(x, n=11, norm="ortho").imag,
    "two axes, of other sizes": lambda x: torch.fft.fft2(x, s=(9, 5)).real,
    "last axes alone, by their sizes": lambda x: torch.fft.fftn(x.unsqueeze(1), s=(6, 7), dim=(-2, -1)).imag,
    "one of two axes, of another size": lambda x: torch.fft.irfft2(torch.fft.rfft2(x, s=(-1, 10)), s=(4, -1)),
    "back to fewer": lambda x: torch.fft.irfft(torch.fft.rfft(x), n=5),
    "back to more": lambda x: torch.fft.irfft(torch.fft.rfft(x), n=13),
    "back again": lambda x: torch.fft.ifft2(torch.fft.fft2(x) + torch.fft.fft2(x * x)).real,
}


@pytest.mark.parametrize("name", _CASES)
def test_answers_are_torch_s_without_complex_numbers(name: str) -> None:
    x = torch.randn(1, 7 if "axis" in name else 6, 8, generator=torch.Generator().manual_seed(1))
    program = torch.export.export(_Module(_CASES[name]), (x,)).module()
    made = with_real_pairs(program, (x,))
    seen = []

    class Watched(fx.Interpreter):
        def run_node(self, n):
            seen.append(super().run_node(n))
            return seen[-1]

    found = Watched(made).run(x)
    found = found[0] if isinstance(found, (tuple, list)) else found
    torch.testing.assert_close(found, _CASES[name](x), rtol=1e-5, atol=1e-5)
    assert not any(isinstance(value, torch.Tensor) and value.is_complex() for value in seen)


def test_what_has_no_form_stays_as_it_is() -> None:
    x = torch.randn(1, 8)
    for function in (lambda x: torch.fft.fft(x).angle(), lambda x: torch.fft.fft(x, n=5000).real):
        program = torch.export.export(_Module(function), (x,)).module()
        assert with_real_pairs(program, (x,)) is program


def test_a_spectrum_runs_on_android(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(24, 6, 8)).astype(np.float32)
    module = nn.Sequential(_Module(_CASES["all axes of a row"]), nn.Flatten(), nn.Linear(48, 3))
    found, expected = exported_answers(module, rows, Platform.ANDROID, Precision.FLOAT32, tmp_path)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)
