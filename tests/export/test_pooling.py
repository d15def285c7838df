"""Pooling and convolutions whose edges converters treat each in their own way, on every platform."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgewright.artifact import Precision
from edgewright.export.coreml_graph import graph_for_coreml
from edgewright.export.litert_graph import graph_for_litert
from edgewright.export.pooling_forms import POOLING_FORMS
from edgewright.profile import Platform
from tests.export.end_to_end import exported_answers, largest_difference

pytestmark = pytest.mark.filterwarnings("ignore")
IMAGE = (3, 11, 8)


class Pooled(nn.Module):
    """A weight, the pooling, and both as one row of numbers."""

    def __init__(self, pool) -> None:
        super().__init__()
        self.pool, self.scale = pool, nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.pool(self.scale(x)).flatten(1)


POOLS = {
    "average, hanging over the edge": lambda x: functional.avg_pool2d(x, 3, 2, ceil_mode=True),
    "average, padded and hanging over": lambda x: functional.avg_pool2d(x, 4, 3, 1, True, False),
    "average of one axis, hanging over": lambda x: functional.avg_pool1d(x.flatten(2), 5, 3, 2, True),
    "average with a divisor": lambda x: functional.avg_pool2d(x, 3, 2, 1, divisor_override=5),
    "largest, hanging over the edge": lambda x: functional.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "largest, with gaps": lambda x: functional.max_pool2d(x, 3, 2, 1, dilation=(2, 1)),
    "largest, with gaps, hanging over": lambda x: functional.max_pool2d(x, (2, 3), 2, 1, 2, ceil_mode=True),
    "largest of one axis, with gaps": lambda x: functional.max_pool1d(x.flatten(2), 3, 4, 1, 3, True),
    "largest of three axes, with gaps": lambda x: functional.max_pool3d(x.unsqueeze(1), 2, 1, 1, 2),
    "average without a batch axis": lambda x: functional.avg_pool2d(x.mean(1), 3, 2, ceil_mode=True),
    "largest without a batch axis": lambda x: functional.max_pool2d(x.mean(1), 2),
    "adaptive, without a batch axis": lambda x: functional.adaptive_avg_pool2d(x.amax(1), (3, 2)),
    "largest, adaptive, without a batch axis": lambda x: functional.adaptive_max_pool2d(x.amax(1), (3, 2)),
    "across channels": nn.LocalResponseNorm(3, alpha=0.1),
    "of one axis without a batch axis": lambda x: functional.max_pool1d(x.mean((1, 2)), 3, 1),
}


@pytest.mark.parametrize("platform", Platform)
@pytest.mark.parametrize("name", POOLS)
def test_pooling_is_the_sources(name: str, platform: Platform, tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = np.random.default_rng(0).normal(size=(6, *IMAGE)).astype(np.float32)
    found, expected = exported_answers(Pooled(POOLS[name]), rows, platform, Precision.FLOAT32, tmp_path)
    assert found.shape == expected.shape
    assert largest_difference(found, expected) <= 1e-5


def _named(layer: type[nn.Module], kernel, **settings) -> nn.Module:
    return layer(3, 4, kernel, padding="same", **settings)


CONVOLUTIONS = {
    "one axis": (_named(nn.Conv1d, 5), (3, 12)),
    "one axis, even kernel": (_named(nn.Conv1d, 4, dilation=3), (3, 13)),
    "two axes": (_named(nn.Conv2d, 3), IMAGE),
    "two axes, even kernel": (_named(nn.Conv2d, (2, 5), dilation=(1, 2)), IMAGE),
    "three axes": (_named(nn.Conv3d, (3, 2, 1)), (3, 4, 6, 5)),
    "none": (nn.Conv2d(3, 4, 3, padding="valid"), IMAGE),
}


@pytest.mark.parametrize("platform", Platform)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_padding_by_its_name_is_the_sources(name: str, platform: Platform, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer, shape = CONVOLUTIONS[name]
    rows = np.random.default_rng(0).normal(size=(6, *shape)).astype(np.float32)
    found, expected = exported_answers(nn.Sequential(layer, nn.ReLU()), rows, platform, Precision.FLOAT32, tmp_path)
    assert found.shape == expected.shape
    assert largest_difference(found, expected) <= 1e-5


PLACES = {
    "with gaps": ("max_pool2d_with_indices", (3, 2, 1, 2)),
    "of one number for all axes": ("max_pool2d_with_indices", ((2,), (), (0,), (1,), True)),
    "of one axis": ("max_pool1d_with_indices", (3, 2, 1)),
    "of three axes": ("max_pool3d_with_indices", (2, 1, 1, 2)),
    "adaptive": ("adaptive_max_pool2d", ((3, 2),)),
    "adaptive, of three axes": ("adaptive_max_pool3d", ((2, 2, 3),)),
}


@pytest.mark.parametrize("name", PLACES)
def test_the_largest_is_told_by_its_place(name):
    operation, settings = PLACES[name]
    axes = int(operation.partition("pool")[2][0])
    settings = tuple((n,) * axes if type(n) is int else n for n in settings)
    # Few numbers: several of a window are the largest, and the first of them counts.
    x = torch.randint(-2, 3, (2, 3, *(7, 8, 5)[:axes]), generator=torch.Generator().manual_seed(0)).float()
    expected = getattr(torch.ops.aten, operation).default(x, *settings)
    for found, wanted in zip(POOLING_FORMS[f"aten.{operation}.default"](x, *settings), expected, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("graph_for", [graph_for_coreml, graph_for_litert], ids=["coreml", "litert"])
def test_a_place_that_is_an_output_stays_one(graph_for):
    class Places(nn.Module):
        def forward(self, x):
            return functional.max_pool2d(x, 3, 2, 1, dilation=2, return_indices=True), functional.adaptive_max_pool2d(
                x, (3, 2), return_indices=True
            )

    x = torch.randn(1, *IMAGE)
    program = torch.export.export(Places(), (x,)).module()
    refused = {"max_pool2d_with_indices"}
    graph = graph_for(program, (x,)) if graph_for is graph_for_coreml else graph_for(program, (x,), refused)
    found, expected = torch.utils._pytree.tree_leaves(graph(x)), torch.utils._pytree.tree_leaves(Places()(x))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_the_place_of_what_is_missing_is_in_the_image():
    x = torch.randn(1, 2, 17, 19, generator=torch.Generator().manual_seed(0))
    x[0, 1, 16, 7] = torch.nan
    expected = functional.adaptive_max_pool2d(x, (3, 2), return_indices=True)
    found = POOLING_FORMS["aten.adaptive_max_pool2d.default"](x, (3, 2))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
