"""Whole numbers of 8 bits wrap on every platform as they do in torch."""

import numpy as np
import pytest
import torch
from torch import nn

from edgewright.artifact import Precision
from edgewright.export.narrow_integers import with_wide_arithmetic
from edgewright.intake.program_graph import graph_of_program
from edgewright.profile import Platform
from tests.export.end_to_end import exported_answers

pytestmark = pytest.mark.filterwarnings("ignore")
EVERY = {
    kind: torch.arange(torch.iinfo(kind).min, torch.iinfo(kind).max + 1).to(kind)[:, None]
    for kind in (torch.uint8, torch.int8)
}


class Computing(nn.Module):
    def __init__(self, compute):
        super().__init__()
        self.compute = compute

    def forward(self, x):
        return self.compute(x)


COMPUTED = {
    "sum": lambda x: x + 200 % 128,
    "difference": lambda x: x - 100,
    "product": lambda x: x * 3,
    "negative": lambda x: -x,
    "itself": lambda x: x + x,
    "bits turned": lambda x: ~x,
    "shifted left": lambda x: x << 2,
    "shifted right": lambda x: x >> 1,
    "from a number": lambda x: 5 - x,
    "of its largest": lambda x: x - torch.cat([x, x + 7], 1).max(1, keepdim=True).values,
    "bounded": lambda x: torch.clamp(x, 10, 100),
}


@pytest.mark.parametrize("kind", EVERY, ids=str)
@pytest.mark.parametrize("what", COMPUTED)
def test_wide_arithmetic_gives_the_same_numbers(what, kind):
    x = EVERY[kind]
    batch = ({0: torch.export.Dim("batch")},)
    module = graph_of_program(torch.export.export(Computing(COMPUTED[what]).eval(), (x[:2],), dynamic_shapes=batch))
    wide = with_wide_arithmetic(module, (x,))
    assert torch.equal(wide(x), COMPUTED[what](x))
    assert "torch.int32" in str(wide.graph)


class Pixels(nn.Module):
    def forward(self, x):
        return (x + 200 - (x >> 1)).float()


@pytest.mark.parametrize("platform", list(Platform), ids=str)
def test_sums_wrap_in_the_file(platform, tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (12, 6)).astype(np.uint8)
    found, expected = exported_answers(Pixels(), rows, platform, Precision.FLOAT32, tmp_path)
    assert np.array_equal(found, expected)
