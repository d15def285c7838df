"""A mixture of experts that sorts its rows by expert comes in as linear layers, one for each expert."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgewright.artifact import ModelTask
from edgewright.data import DataSpec
from edgewright.errors import UnsupportedError, UntrustedModelError
from edgewright.intake import child, torch_graph
from edgewright.intake.grouped_experts import know_grouped_product
from edgewright.intake.program_graph import graph_of_program
from edgewright.intake.pt2_guard import inspect_program

pytestmark = pytest.mark.filterwarnings("ignore")
ROWS = np.random.default_rng(0).normal(size=(40, 3, 6)).astype(np.float32)
EXPERTS = 4


class Mixture(nn.Module):
    """As transformers writes it: two experts of four for each token, with a bias of the expert's own."""

    def __init__(self, mixes=""):
        super().__init__()
        self.mixes = mixes
        self.gate = nn.Linear(6, EXPERTS)
        self.up = nn.Parameter(torch.randn(EXPERTS, 10, 6))
        self.bias = nn.Parameter(torch.randn(EXPERTS, 10))
        self.down = nn.Parameter(torch.randn(EXPERTS, 5, 6))

    def forward(self, x):
        rows = x.reshape(-1, 6)
        weights, chosen = torch.topk(self.gate(rows).softmax(-1), 2)
        choice, order = torch.sort(chosen.reshape(-1))
        ends = torch.cumsum(torch.histc(choice.float(), EXPERTS, 0, EXPERTS - 1), 0, dtype=torch.int32)
        found = torch.ops.transformers.grouped_mm_fallback(rows[order // 2], self.up.transpose(-2, -1), ends)
        found.add_(self.bias[choice])
        one, other = found.chunk(2, -1)
        gated = functional.silu(one) * other
        if self.mixes:
            gated = gated - gated.mean(0, keepdim=True) if self.mixes == "rows" else gated * order.unsqueeze(-1)
        found = torch.ops.transformers.grouped_mm_fallback(gated, self.down, ends)
        found = found * weights.reshape(-1)[order].unsqueeze(-1)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(order.shape[0])
        return found[inverse].view(rows.shape[0], 2, 6).sum(1).view(x.shape)


def program_of(network):
    know_grouped_product()
    batch = {0: torch.export.Dim("batch", min=1, max=1 << 10)}
    return torch.export.export(network.eval(), (torch.from_numpy(ROWS[:2]),), dynamic_shapes=(batch,))


def test_each_expert_becomes_a_linear_layer(tmp_path):
    torch.manual_seed(0)
    network = Mixture()
    program = program_of(network)
    torch.export.save(program, tmp_path / "m.pt2")
    np.savez(tmp_path / "d.npz", x=ROWS)
    spec = DataSpec(path=tmp_path / "d.npz", task=ModelTask.NONE)
    intake = child.take_in(tmp_path / "m.pt2", spec, tmp_path / "s", "mixture")
    graph = torch_graph.load(intake.model.graph.path)
    assert sum(isinstance(m, nn.Linear) for m in graph.modules()) == 1 + 2 * EXPERTS
    left = {str(n.target) for n in graph.graph.nodes if n.op == "call_function"}
    assert not left & {"aten.sort.default", "aten.index_put.default", "aten.histc.default", "aten.cumsum.default"}
    for rows in (1, 2, 7):
        with torch.no_grad():
            x = torch.from_numpy(ROWS[:rows])
            torch.testing.assert_close(graph(x), network(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("mixes", "named"), [("rows", "aten.mean.dim"), ("order", "aten.unsqueeze.default")])
def test_rows_that_depend_on_their_order_are_refused(mixes, named):
    """Their mean over all rows would be right by chance; a product with their place in the order would not."""
    with pytest.raises(UnsupportedError, match=f"multiplies rows by groups, which no platform does; {named}"):
        graph_of_program(program_of(Mixture(mixes)))


def test_no_other_operator_of_transformers_is_let_in(tmp_path):
    torch.library.define("transformers::grouped_mm_other", "(Tensor input) -> Tensor")
    torch.library.impl("transformers::grouped_mm_other", "CPU", torch.clone)
    torch.library.register_fake("transformers::grouped_mm_other", torch.empty_like)

    class Other(nn.Module):
        def forward(self, x):
            return torch.ops.transformers.grouped_mm_other(x)

    torch.export.save(program_of(Other()), tmp_path / "m.pt2")
    with pytest.raises(UntrustedModelError, match="grouped_mm_other"):
        inspect_program(tmp_path / "m.pt2")
