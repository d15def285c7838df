"""A model that amplifies its own float32 rounding is judged by that; any other by the fixed limit."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import fx, nn

from edgewright.errors import ConversionError
from edgewright.intake.agreement import compare_graph
from edgewright.intake.own_rounding import own_rounding
from edgewright.intake.row_mixing import LIMIT, allowed_beside
from edgewright_runtime.bundle.manifest import TensorSpec

_AWAY = 4096.0


class _Cancelling(nn.Module):
    """The last digits of its input are lost beside a large number; the dtypes are named on the way."""

    def forward(self, x):
        away = torch.full((1,), _AWAY, dtype=torch.float32)
        return torch.ops.aten._to_copy.default(x + away, dtype=torch.float32) - away


class _Plain(nn.Module):
    def forward(self, x):
        return x * 1.0


def _rows(count: int = 9) -> np.ndarray:
    return np.random.default_rng(3).uniform(-4, 4, (count, 5)).astype(np.float32)


def _source(rows: np.ndarray) -> SimpleNamespace:
    spec = (TensorSpec("x", (-1, 5), "float32"),)
    samples = SimpleNamespace(rows=SimpleNamespace(test=np.arange(len(rows))), inputs={"x": rows})
    return SimpleNamespace(samples=samples, inputs=spec, outputs=spec, float32_only=False, notes=())


def test_the_rounding_is_the_distance_of_float32_from_float64():
    rows = _rows()
    lost = np.abs((rows + np.float32(_AWAY)) - np.float32(_AWAY) - rows.astype(np.float64)).max()
    batches = [[torch.from_numpy(rows[:1])], [torch.from_numpy(rows[1:])]]
    graph = fx.symbolic_trace(_Cancelling())
    (found,) = own_rounding(graph, batches) or []
    assert found == pytest.approx(lost / np.abs(rows).max(), rel=1e-6)
    assert torch.get_default_dtype() == torch.float32
    assert own_rounding(fx.symbolic_trace(_Plain()), batches) == [0.0]


def test_layers_are_as_wide_and_stay_as_they_are():
    layer = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5)).eval()
    graph = fx.symbolic_trace(layer)
    (found,) = own_rounding(graph, [[torch.from_numpy(_rows())]]) or []
    assert 0 < found < 1e-6
    assert {p.dtype for p in graph.parameters()} == {torch.float32}


def test_a_graph_that_does_not_run_in_float64_has_no_known_rounding():
    graph = fx.symbolic_trace(_Plain())
    for node in graph.graph.nodes:
        if node.op == "call_function":
            node.target = lambda x, y: torch.ops.aten.mm(x, torch.ones(5, 5).float())
    graph.recompile()
    assert own_rounding(graph, [[torch.from_numpy(_rows())]]) is None


@pytest.mark.parametrize(
    ("rounding", "allowed"), [(0.0, LIMIT), (3e-5, LIMIT), (1e-4, 3e-4), (3.3e-4, 9.9e-4), (4e-4, LIMIT)]
)
def test_three_times_the_rounding_is_allowed_as_long_as_it_tells_something(rounding, allowed):
    assert allowed_beside(rounding) == pytest.approx(allowed)


def test_another_kernel_s_rounding_is_no_disagreement_and_is_said():
    rows = _rows()
    source = _source(rows)
    exact = rows.astype(np.float64)
    compare_graph(fx.symbolic_trace(_Cancelling()), source, [exact + 3e-4 * np.sign(exact)], "m")
    (note,) = source.notes
    assert "allowed 1e-04; the model's own float32 rounding is" in note
    assert "against float64, so" in note


def test_the_same_difference_of_a_well_conditioned_model_is_refused():
    rows = _rows()
    with pytest.raises(ConversionError, match=r"allowed 1e-04\)"):
        compare_graph(fx.symbolic_trace(_Plain()), _source(rows), [rows * (1 + 2e-4)], "m")


def test_a_difference_beyond_the_rounding_is_refused_and_both_are_said():
    rows = _rows()
    with pytest.raises(ConversionError, match=r"own float32 rounding is .* against float64, so .* is allowed"):
        compare_graph(fx.symbolic_trace(_Cancelling()), _source(rows), [rows * 1.002], "m")
