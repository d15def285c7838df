"""Operators that repeat a graph of their own, as poolings over three axes do, in int8 on Android."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgewright.artifact import Precision
from edgewright.export import tflite
from edgewright.profile import Platform
from tests.export.end_to_end import exported_answers

pytestmark = pytest.mark.filterwarnings("ignore")
VIDEO = (2, 4, 8, 8)
MIN_DECIBELS = 25


class Pooled(nn.Module):
    def __init__(self, pool) -> None:
        super().__init__()
        self.pool, self.first, self.out = pool, nn.Conv3d(2, 8, 3, padding=1), nn.Linear(8 * 2 * 4 * 4, 5)

    def forward(self, x):
        return self.out(self.pool(self.first(x)).flatten(1))


POOLS = {
    "maximum": lambda x: functional.max_pool3d(x, 2),
    "average": lambda x: functional.avg_pool3d(x, 2),
}


@pytest.mark.parametrize("pool", POOLS)
def test_what_surrounds_a_pooling_over_three_axes_becomes_int8(pool: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = np.random.default_rng(0).normal(size=(32, *VIDEO)).astype(np.float32)
    found, expected = exported_answers(Pooled(POOLS[pool]), rows, Platform.ANDROID, Precision.INT8, tmp_path)
    assert 10 * np.log10(np.square(expected).mean() / np.square(found - expected).mean()) >= MIN_DECIBELS
    found_kinds = set.union(*map(kinds, tmp_path.rglob("*.tflite")))
    assert ("FULLY_CONNECTED", "int8") in found_kinds
    assert ("STABLEHLO_REDUCE_WINDOW", "int8") not in found_kinds


def kinds(path: Path) -> set[tuple[str, str]]:
    """Each operator's name and the type of what it gives."""
    model = tflite.load(path)
    graph = model.subgraphs[0]
    return {(tflite.operator_name(model, o), tflite.DTYPES[graph.tensors[o.outputs[0]].type]) for o in graph.operators}
