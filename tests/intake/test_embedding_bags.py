"""A bag of embeddings comes in as an embedding and its sum, mean or maximum."""

import pytest
import torch
from torch import nn

from edgewright.intake.program_graph import graph_of_program

IDS = torch.randint(0, 20, (5, 6), generator=torch.Generator().manual_seed(0))
IDS[0], IDS[1, :3] = 3, 3  # of padding alone, and in part


class Bagged(nn.Module):
    def __init__(self, starts, **settings):
        super().__init__()
        torch.manual_seed(0)
        self.bag = nn.EmbeddingBag(20, 8, **settings)
        self.register_buffer("starts", None if starts is None else torch.tensor(starts))

    def forward(self, ids, weights=None):
        if self.starts is None:
            return self.bag(ids, per_sample_weights=weights)
        return self.bag(ids.reshape(-1), self.starts)


def opened(module, *given):
    is_free = module.starts is None
    free = tuple({0: torch.export.Dim("batch")} for _ in given) if is_free else None
    graph = graph_of_program(torch.export.export(module.eval(), given, dynamic_shapes=free))
    assert not any("bag" in str(node.target) for node in graph.graph.nodes if node.op == "call_function")
    assert any(isinstance(layer, nn.Embedding) for layer in graph.modules())
    return graph


@pytest.mark.parametrize(("starts", "ends"), [(None, False), ([0, 2, 2, 5, 11], False), ([0, 2, 2, 5, 30], True)])
@pytest.mark.parametrize("padding", [None, 3])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bag_is_opened(mode, padding, starts, ends):
    module = Bagged(starts, mode=mode, padding_idx=padding, include_last_offset=ends)
    assert torch.allclose(opened(module, IDS)(IDS), module(IDS), atol=1e-5)


class Counted(nn.Module):
    """Bags that begin at every ``length``-th id, up to an end."""

    def __init__(self, end, length):
        super().__init__()
        torch.manual_seed(0)
        self.bag = nn.EmbeddingBag(20, 8)
        self.register_buffer("starts", torch.zeros(0))  # of `opened`: the sizes are fixed
        self.end, self.length = end, length

    def forward(self, ids):
        return self.bag(ids.reshape(-1), torch.arange(0, self.end, self.length))


@pytest.mark.parametrize(("end", "length"), [(30, 6), (25, 6), (30, 4), (12, 6), (29, 7)])
def test_counted_bags_end_with_the_ids_that_are_left(end, length):
    module = Counted(end, length)
    assert torch.allclose(opened(module, IDS)(IDS), module(IDS), atol=1e-5)


def test_ids_are_weighed():
    weights = torch.rand(5, 6)
    module = Bagged(None, mode="sum", padding_idx=3)
    assert torch.allclose(opened(module, IDS, weights)(IDS, weights), module(IDS, weights), atol=1e-5)
