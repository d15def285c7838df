"""Forms of a torch graph where sizes, types or numbers are not the usual ones; beside torch's own answers."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn
from torch.nn import functional

from edgewright.artifact import Format
from edgewright.errors import UnsupportedError
from edgewright.export.coreml_graph import graph_for_coreml
from edgewright.export.litert_graph import graph_for_litert
from edgewright.export.masks import BOUND, bound_masks
from edgewright.export.number_forms import NUMBER_FORMS, STABLE_ORDERS
from edgewright.export.own_outputs import with_own_outputs
from edgewright.export.resize_forms import RESIZE_FORMS
from edgewright.export.runs import outputs_of
from edgewright.export.special_functions import SPECIAL_FUNCTIONS
from edgewright.export.static_graph import static_graph

pytestmark = pytest.mark.filterwarnings("ignore")
INFINITY, NAN = torch.inf, torch.nan


class Of(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("whole", torch.tensor([[0, -1_000_000_000, 0, 0]]))
        self.register_buffer("first", torch.tensor([[True, False, False, False]]))

    def forward(self, *inputs):
        return self.function(self, *inputs)


def graph_of(function, *examples):
    return torch.export.export(Of(function), examples).module()


@pytest.mark.parametrize(
    "function",
    [
        lambda _, x: torch.softmax(x.masked_fill(x > 0, -1_000_000_000), 1),
        lambda m, x: torch.softmax(x + m.first * -1_000_000_000, 1),
        lambda m, x: torch.softmax(x + m.whole.float(), 1),
        lambda _, x: torch.softmax(x.masked_fill(x > 0, -1e9), 1),
    ],
    ids=["filled", "multiplied", "stored", "real"],
)
def test_a_mask_of_whole_numbers_is_bounded(function) -> None:
    x = torch.randn(2, 4)
    graph = graph_of(function, x)
    expected = graph(x)
    assert bound_masks(graph) == f"masks of -1e+09 became {-BOUND:g}: half precision has nothing beyond 65504"
    nodes = list(graph.graph.nodes)
    constants = [getattr(graph, node.target) for node in nodes if node.op == "get_attr" and node.users]
    constants += [n for node in nodes for n in node.args if isinstance(n, (int, float))]
    assert min(float(torch.as_tensor(c).min()) for c in constants) == -BOUND
    torch.testing.assert_close(graph(x), expected)


def test_a_whole_number_that_is_a_place_is_not_bounded() -> None:
    x = torch.randn(2, 4)
    graph = graph_of(lambda _, x: torch.softmax(torch.ops.aten.slice.Tensor(x, 1, -(2**40), 3), 1), x)
    assert bound_masks(graph) == ""
    assert graph(x).shape == (2, 3)


@pytest.mark.parametrize("size", [8, 13, 16, 20])
def test_a_spectrum_goes_back_to_another_size(size) -> None:
    x = torch.randn(1, 16)
    graph = graph_for_litert(graph_of(lambda _, x: torch.fft.irfft(torch.fft.rfft(x), n=size), x), (x,))
    (found,) = torch.utils._pytree.tree_leaves(graph(x))
    torch.testing.assert_close(found, torch.fft.irfft(torch.fft.rfft(x), n=size), atol=1e-5, rtol=1e-5)


DRAWING = {
    "randn": lambda _, x: x + torch.randn(1, 4),
    "randn_like": lambda _, x: x + torch.randn_like(x),
    "dropout": lambda _, x: functional.dropout(x, training=True),
    "randperm": lambda _, x: x[:, torch.randperm(4)],
}


@pytest.mark.parametrize("graph_for", [graph_for_coreml, graph_for_litert], ids=["coreml", "litert"])
@pytest.mark.parametrize("name", DRAWING)
def test_what_is_drawn_at_random_is_refused_by_name(name, graph_for) -> None:
    x = torch.randn(1, 4)
    with pytest.raises(UnsupportedError, match=rf"operator aten\.{name}\..* draws at random"):
        graph_for(graph_of(DRAWING[name], x), (x,))


def test_what_could_draw_and_does_not_is_taken() -> None:
    x = torch.randn(1, 4)
    graph = static_graph(graph_of(lambda m, x: x + functional.dropout(m.whole.float(), training=False), x), (x,))
    torch.testing.assert_close(graph(x), x + torch.tensor([[0, -1e9, 0, 0]]))


@pytest.mark.parametrize("are_constants_held", [True, False])
def test_outputs_that_are_none_or_of_no_axis(are_constants_held) -> None:
    x, scale = torch.randn(1, 4), torch.tensor(2.0)
    graph = graph_of(lambda _, x, scale: (x * scale, None, scale, scale, x), x, scale)
    found = torch.utils._pytree.tree_leaves(
        with_own_outputs(graph, (x, scale), are_constants_held=are_constants_held)(x, scale)
    )
    for one, other in zip(found, (x * scale, None, scale, scale, x), strict=True):
        assert one is other is None or torch.equal(one, other)


SHAPES = [((1, 3), (3,), 1), ((3,), (2, 3), -1), ((2, 1), (2, 3), 1), ((2, 3), (2, 3), 0), ((2, 1, 4), (3, 1), 1)]


@pytest.mark.parametrize(("one", "other", "axis"), SHAPES)
def test_cosines_of_shapes_that_differ_are_torchs(one, other, axis) -> None:
    x, y = torch.randn(one), torch.randn(other)
    found = NUMBER_FORMS["aten.cosine_similarity.default"](x, y, axis)
    torch.testing.assert_close(found, functional.cosine_similarity(x, y, axis))


@pytest.mark.parametrize("descending", [False, True])
def test_a_stable_order_has_nan_where_torch_has_it(descending) -> None:
    x = torch.tensor([[1.0, NAN, -INFINITY, NAN, INFINITY, 1.0, -0.0, 0.0], [NAN] * 8])
    expected = torch.sort(x, stable=True, dim=1, descending=descending)
    found = STABLE_ORDERS["aten.sort.stable"](x, stable=True, dim=1, descending=descending)
    assert torch.equal(found[1], expected[1])
    torch.testing.assert_close(found[0], expected[0], equal_nan=True)


ENDS = torch.tensor([-INFINITY, -2.0, -0.0, 0.0, 3.0, 1e38, INFINITY, NAN])


@pytest.mark.parametrize(
    ("form", "function"),
    [
        (NUMBER_FORMS["aten.hypot.default"], torch.hypot),
        (SPECIAL_FUNCTIONS["aten.atan2.default"], torch.atan2),
    ],
)
def test_two_numbers_at_the_ends(form, function) -> None:
    x, y = (side.flatten() for side in torch.meshgrid(ENDS, ENDS, indexing="ij"))
    plain = ~(torch.isnan(x) | torch.isnan(y))
    torch.testing.assert_close(form(x, y)[plain], function(x, y)[plain])
    assert torch.equal(form(x[:8], x[:8]).isnan(), function(x[:8], x[:8]).isnan())


@pytest.mark.parametrize(
    "row",
    [[INFINITY, 1, 2], [1, INFINITY, INFINITY], [-INFINITY] * 3, [-INFINITY, 1, -INFINITY], [1, NAN, INFINITY]],
)
def test_running_sums_of_infinite_exponentials(row) -> None:
    x = torch.tensor([row], dtype=torch.float32)
    found = NUMBER_FORMS["aten.logcumsumexp.default"](x, 1)
    torch.testing.assert_close(found, torch.logcumsumexp(x, 1), equal_nan=True)


@pytest.mark.parametrize("name", ["upsample_bilinear2d", "upsample_bicubic2d"])
def test_an_image_of_bytes_is_resized(name) -> None:
    x = torch.randint(0, 256, (1, 3, 6, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = RESIZE_FORMS[f"aten.{name}.vec"](x, [9, 13], False, None)
    assert found.dtype is torch.uint8
    expected = getattr(torch.ops.aten, name).vec(x, [9, 13], False, None)
    # torch has shares of 16 bits.
    assert (found.int() - expected.int()).abs().max() <= 1


def test_rows_that_fill_no_whole_batch_are_answered(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["y"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [16, 3]) for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", values[:1], values[1:]), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )
    onnx.save(model, tmp_path / "m.onnx")
    rows = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    assert np.array_equal(outputs_of(tmp_path / "m.onnx", Format.ONNX, {"x": rows}, ["y"])["y"], -rows)
