"""Sums into places and other reductions there, which LiteRT's runtime refuses as its converter writes them."""

import re

import pytest
import torch
from torch import nn

from edgewright.artifact import Precision
from edgewright.errors import ConversionError
from edgewright.export.litert_graph import graph_for_litert
from edgewright.intake.program_graph import graph_of_program
from edgewright.profile import Platform
from tests.export.end_to_end import exported_answers

pytestmark = pytest.mark.filterwarnings("ignore")


class Scattering(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, x):
        return self.what(x, (x.abs() * 2).long().clamp(0, x.shape[1] - 1))


REDUCTIONS = {
    "add": lambda x, i: x.scatter_add(1, i, x * 3),
    "add along the last axis": lambda x, i: x.scatter_add(-1, i[..., :2].clamp(0, 3), x),
    "add fewer numbers": lambda x, i: x.scatter_add(1, i[:, :2], x * 3),
    "reduce by add": lambda x, i: torch.scatter(x, 1, i, x * 2, reduce="add"),
    "a number by add": lambda x, i: torch.scatter(x, 1, i, 0.5, reduce="add"),
    "reduce by sum": lambda x, i: x.scatter_reduce(1, i, x * 2, "sum"),
    "reduce by mean": lambda x, i: x.scatter_reduce(1, i, x * 2, "mean"),
    "the mean of what falls": lambda x, i: x.scatter_reduce(1, i, x * 2, "mean", include_self=False),
    "the sum of what falls": lambda x, i: x.scatter_reduce(1, i[:, :2], x * 2, "sum", include_self=False),
    "the greatest": lambda x, i: x.scatter_reduce(1, i[:, :3], x * 2, "amax"),
    "the least of what falls": lambda x, i: x.scatter_reduce(1, i, x * 2, "amin", include_self=False),
    "add rows": lambda x, _: x.index_add(1, torch.tensor([3, 0, 3]), x[:, :3], alpha=2),
    "put, adding": lambda x, _: x.index_put(
        (torch.tensor([0]), torch.tensor([[1, 3], [-1, 1]])), x[0, 1:3], accumulate=True
    ),
    "put along an axis, adding": lambda x, _: torch.ops.aten.index_put(
        x, [None, torch.tensor([1, 1, 4])], x[:, 2:], accumulate=True
    ),
}


@pytest.mark.parametrize("what", REDUCTIONS)
@pytest.mark.parametrize("shape", [(1, 5), (1, 5, 4)])
def test_a_reduction_into_places_is_written_without_a_scatter(what, shape):
    module, x = Scattering(REDUCTIONS[what]), torch.randn(*shape)
    graph = graph_for_litert(graph_of_program(torch.export.export(module.eval(), (x,))), (x,))
    assert not any(re.search("scatter|index_", str(n.target)) for n in graph.graph.nodes)
    other = torch.randn(*shape)
    torch.testing.assert_close(graph(other), module(other))


@pytest.mark.parametrize("what", ["add", "a number by add", "add rows", "the mean of what falls", "the greatest"])
def test_litert_reduces_into_places(what, tmp_path):
    rows = torch.randn(12, 6).numpy()
    found, expected = exported_answers(
        Scattering(REDUCTIONS[what]), rows, Platform.ANDROID, Precision.FLOAT32, tmp_path
    )
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_product_into_places_is_refused_in_one_line(tmp_path):
    rows = torch.randn(12, 6).numpy()
    module = Scattering(lambda x, i: x.scatter_reduce(1, i, x * 2, "prod"))
    with pytest.raises(ConversionError, match=r"LiteRT does not run what its converter made of the model: .*; ") as e:
        exported_answers(module, rows, Platform.ANDROID, Precision.FLOAT32, tmp_path)
    assert "\n" not in str(e.value)
