"""Layers are raised only where they mean what the program's operations meant, from tensors that stay their own."""

import pytest
import torch
from torch import fx, nn

from edgewright.intake import raise_layers
from edgewright.intake.program_graph import graph_of_program

pytestmark = pytest.mark.filterwarnings("ignore")


def graph_of(module, *examples):
    return graph_of_program(torch.export.export(module.eval(), examples))


def assert_same(module, *inputs):
    graph = graph_of(module, *inputs)
    with torch.no_grad():
        expected, got = module(*inputs), graph(*inputs)
    expected, got = (v if isinstance(v, tuple) else (v,) for v in (expected, got))
    for one, other in zip(expected, got, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    return graph


class Normalized(nn.Module):
    def __init__(self, which):
        super().__init__()
        self.which, self.weight, self.bias = which, nn.Parameter(torch.rand(4)), nn.Parameter(torch.rand(4))

    def forward(self, x):
        results = torch.ops.aten.native_layer_norm(x, [4], self.weight, self.bias, 1e-5)
        return tuple(results[i] for i in self.which)


@pytest.mark.parametrize("which", [(0,), (0, 1), (2,), (0, 0), (0, 1, 2)])
def test_a_statistic_that_is_read_stays_one(which):
    graph = assert_same(Normalized(which), torch.randn(3, 4) + 5)
    assert any(n.op == "call_module" for n in graph.graph.nodes) == (set(which) == {0})


class Named(nn.Module):
    def __init__(self, *names):
        super().__init__()
        self.layers = nn.ModuleDict({name: nn.Linear(3, 3) for name in names})

    def forward(self, x):
        for layer in self.layers.values():
            x = layer(x)
        return x


@pytest.mark.parametrize("names", [("a-b", "a_b"), ("a_b", "a-b"), ("a-b", "a_b", "a+b", "a_b_1"), ("a b", "a_b_1")])
def test_modules_whose_names_become_one_keep_their_own_weights(names):
    module = Named(*names)
    graph = assert_same(module, torch.randn(2, 3))
    assert len({n.target for n in graph.graph.nodes if n.op == "call_module"}) == len(names)


class Buffers(nn.Module):
    def __init__(self):
        super().__init__()
        for number, name in enumerate(("a-b", "a_b", "a+b")):
            self.register_buffer(name, torch.full((3,), float(number + 1)))

    def forward(self, x):
        return x * getattr(self, "a-b") + self.a_b - 10 * getattr(self, "a+b")


def test_buffers_whose_names_become_one_keep_their_own_values():
    assert_same(Buffers(), torch.randn(2, 3))


class Folded(nn.Module):
    """A weight of so many steps, each of which reads both results of the one before it."""

    def __init__(self, steps):
        super().__init__()
        self.steps, self.a, self.b = steps, nn.Parameter(torch.rand(3, 3)), nn.Parameter(torch.rand(3, 3))

    def forward(self, x):
        a, b = self.a, self.b
        for _ in range(self.steps):
            a, b = (a + b) / 2, (a - b) / 2
        return nn.functional.linear(x, a)


def test_a_weight_of_many_steps_is_computed_once_each(monkeypatch):
    calls = []
    real = raise_layers._value
    monkeypatch.setattr(raise_layers, "_value", lambda *given: calls.append(1) or real(*given))
    graph = assert_same(Folded(14), torch.randn(2, 3))
    assert [n.op for n in graph.graph.nodes] == ["placeholder", "call_module", "output"]
    # Fifteen steps of four operations of two operands at most.
    assert len(calls) < 15 * 4 * 2


def test_a_weight_of_too_many_steps_stays_computed():
    graph = assert_same(Folded(raise_layers._LONGEST_CHAIN), torch.randn(2, 3))
    assert not any(n.op == "call_module" for n in graph.graph.nodes)
    assert isinstance(graph, fx.GraphModule)
