"""What the exporters make of a graph before a converter sees it: other operations, the same answers."""

import operator

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgewright.errors import UnsupportedError
from edgewright.export import litert
from edgewright.export.convolution_forms import has_plain_transpose
from edgewright.export.few_axes import with_few_axes
from edgewright.export.litert_graph import graph_for_litert, in_float64, refuse_complex
from edgewright.export.lowering import FORMS, lowered, recurrent_layers_as_operations
from edgewright.export.pooling_forms import has_own_divisor
from edgewright.export.static_graph import NodeValues, static_graph
from edgewright.intake.program_graph import graph_of_program
from tests.export.shared_heads import SharedHeads

pytestmark = pytest.mark.filterwarnings("ignore")


def graph_of(module, *examples):
    return graph_of_program(torch.export.export(module.eval(), examples))


def assert_same(module, graph, *inputs):
    with torch.no_grad():
        expected, found = module(*inputs), graph(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def widest(graph, *inputs):
    values = NodeValues.of(graph, inputs).env.values()
    return max(v.dim() for v in values if isinstance(v, torch.Tensor))


def test_masks_and_positions_become_constants():
    class Attention(nn.Module):
        def forward(self, x):
            places = torch.arange(x.shape[1])
            mask = places[None, :] <= places[:, None]
            scores = torch.matmul(x, x.transpose(1, 2)).masked_fill(~mask, -1e9)
            return torch.matmul(scores.softmax(-1), x + x.new_ones(x.shape[1], 1))

    module, x = Attention(), torch.rand(1, 6, 4)
    graph = static_graph(graph_of(module, x), (x,))
    names = {str(n.target) for n in graph.graph.nodes}
    assert not names & {"aten.arange.default", "aten.new_ones.default", "aten.le.Tensor", "aten.bitwise_not.default"}
    assert_same(module, graph, torch.rand(1, 6, 4))


def test_a_layer_on_a_constant_stays_a_layer():
    class Prompted(nn.Module):
        def __init__(self):
            super().__init__()
            self.prompt, self.layer = nn.Parameter(torch.rand(1, 3)), nn.Linear(3, 3)

        def forward(self, x):
            return x + self.layer(self.prompt)

    module, x = Prompted(), torch.rand(1, 3)
    graph = static_graph(graph_of(module, x), (x,))
    assert [n.op for n in graph.graph.nodes].count("call_module") == 1
    assert_same(module, graph, torch.rand(1, 3))


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


FORMED = {
    "aten.adaptive_avg_pool1d.default": (lambda x: functional.adaptive_avg_pool1d(x, 3), (1, 4, 7)),
    "aten.adaptive_avg_pool2d.default": (lambda x: functional.adaptive_avg_pool2d(x, (3, 2)), (1, 4, 7, 5)),
    "aten.adaptive_avg_pool3d.default": (lambda x: functional.adaptive_avg_pool3d(x, (2, 3, 1)), (1, 2, 5, 6, 4)),
    "aten.adaptive_max_pool2d.default": (lambda x: functional.adaptive_max_pool2d(x, (3, 2)), (1, 4, 7, 5)),
    "aten.chunk.default": (lambda x: torch.cat(x.chunk(3, 1)[::-1], 1), (1, 8, 3)),
    "aten.col2im.default": (lambda x: functional.fold(x, (8, 6), (3, 2), 1, (1, 0), (2, 1)), (1, 12, 20)),
    "aten.col2im.default, unbatched": (lambda x: functional.fold(x[0], (8, 6), (3, 2), 1, (1, 0), (2, 1)), (1, 12, 20)),
    "aten.log_sigmoid.default": (functional.logsigmoid, (1, 5)),
    "aten.pad.default": (lambda x: functional.pad(x, (-1, 2, 0, -2)), (1, 3, 6, 5)),
    "aten.unfold.default": (lambda x: x.unfold(1, 4, 2), (1, 9, 3)),
    "aten.upsample_bicubic2d.vec": (
        lambda x: functional.interpolate(x, size=(11, 4), mode="bicubic", align_corners=False),
        (1, 2, 7, 6),
    ),
    "aten._upsample_bicubic2d_aa.vec": (
        lambda x: functional.interpolate(x, size=(4, 9), mode="bicubic", antialias=True),
        (1, 2, 7, 6),
    ),
    "aten.reciprocal.default": (torch.reciprocal, (1, 5)),
    "aten.split_with_sizes.default": (lambda x: torch.cat(x.split([3, 1, 4], 1)[::-1], 1), (1, 8, 3)),
    "aten.matmul.default": (lambda x: torch.matmul(x, x.transpose(1, 2)), (2, 3, 4)),
}


POOLINGS = {
    "plain": ((1, 2, 6, 5), (2,), {}),
    "padded": ((1, 2, 6, 5), (3,), {"stride": 2, "padding": 1}),
    "ends before the input": ((1, 2, 8, 9), (3,), {"stride": 2}),
    "hangs over": ((1, 2, 11, 13), (3,), {"stride": 3, "padding": 1, "ceil_mode": True}),
    "begins in no padding": ((1, 2, 5, 5), (2,), {"stride": 3, "padding": 1, "ceil_mode": True}),
    "one axis": ((1, 2, 8), (3,), {"stride": 2, "padding": 1, "ceil_mode": True}),
    "three axes": ((1, 2, 5, 6, 7), (2,), {"stride": (2, 1, 3), "ceil_mode": True}),
}


DIVISORS = ({}, {"count_include_pad": False}, {"divisor_override": 5})


@pytest.mark.parametrize(
    ("name", "divisor"),
    [(n, d) for n in POOLINGS for d in DIVISORS if n != "one axis" or "divisor_override" not in d],
)
def test_average_pooling_without_padding(name, divisor):
    shape, kernel, settings = POOLINGS[name]
    pool = {3: functional.avg_pool1d, 4: functional.avg_pool2d, 5: functional.avg_pool3d}[len(shape)]
    module, x = Function(lambda v: pool(v, *kernel, **settings, **divisor)), torch.rand(*shape)
    graph = graph_of(module, x)
    assert any(has_own_divisor(n) for n in graph.graph.nodes) == ("divisor_override" in divisor)
    asked = {n.name for n in graph.graph.nodes}
    other = lowered(graph, (x,), lambda node, _: "avg_pool" not in str(node.target) or node.name not in asked)
    pools = [n for n in other.graph.nodes if "avg_pool" in str(n.target)]
    assert pools
    assert not any(any(n.args[3:5]) for n in pools)
    assert_same(module, other, torch.rand(*shape))


@pytest.mark.parametrize("name", FORMED)
def test_an_operation_is_written_in_others(name):
    function, shape = FORMED[name]
    name = name.partition(",")[0]
    module, x = Function(function), torch.rand(*shape) + 0.1
    graph = graph_of(module, x)
    assert name in {str(n.target) for n in graph.graph.nodes}
    other = lowered(graph, (x,), lambda node, _: str(node.target) != name)
    assert name not in {str(n.target) for n in other.graph.nodes} or name == "aten.matmul.default"
    assert_same(module, other, torch.rand(*shape) + 0.1)


INFINITE = torch.tensor([[1, -torch.inf, 2, torch.inf], [-torch.inf, -torch.inf, torch.finfo(torch.float32).min, 0]])
ORDERED = {
    "infinite": INFINITE,
    "uint8": torch.tensor([[0, 1, 2, 200], [255, 0, 7, 0]], dtype=torch.uint8),
    "int32": torch.tensor([[0, -(2**31), 2**31 - 1, 5]], dtype=torch.int32),
    "bool": torch.tensor([[True, False, True, False]]),
    "scalar": torch.tensor(3.0),
}


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("name", ORDERED)
def test_an_order_is_torchs_for_every_number(name, descending):
    x = ORDERED[name]
    expected = x.sort(-1, descending=descending).values
    values, places = FORMS["aten.sort.default"](x, -1, descending)
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(x.gather(-1, places), expected)
    assert places.sort().values.tolist() == torch.zeros_like(x, dtype=torch.int32).argsort(stable=True).tolist()
    values, places = FORMS["aten.topk.default"](x, 1, -1, descending)
    torch.testing.assert_close(values, expected[..., :1] if x.dim() else expected)
    torch.testing.assert_close(x.gather(-1, places), values)


def test_an_operation_without_a_form_of_ours_takes_torchs_own():
    module, x = Function(lambda v: torch.addcmul(v, v, v, value=0.5)), torch.rand(1, 4)
    graph = graph_of(module, x)
    assert "aten.addcmul.default" not in FORMS
    other = lowered(graph, (x,), lambda node, _: "addcmul" not in str(node.target))
    assert "aten.addcmul.default" not in {str(n.target) for n in other.graph.nodes}
    assert_same(module, other, torch.rand(1, 4))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize(("layers", "both", "first", "bias"), [(1, False, True, True), (2, True, False, False)])
def test_recurrent_layers_step_by_step(kind, layers, both, first, bias):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = kind(3, 4, layers, batch_first=first, bidirectional=both, bias=bias)

        def forward(self, x):
            y, state = self.rnn(x)
            return y.sum(1) + (state[0] if isinstance(state, tuple) else state).sum()

    shape = (1, 5, 3) if first else (5, 1, 3)
    module, x = Network(), torch.rand(*shape)
    graph = recurrent_layers_as_operations(graph_of(module, x), (x,), (kind,))
    other = lowered(graph, (x,), lambda node, _: "input" not in str(node.target))
    assert not any(n.op == "call_module" for n in other.graph.nodes)
    assert_same(module, other, torch.rand(*shape))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("first", [True, False])
def test_recurrent_layers_of_another_batch_than_the_models_begin_with_a_state_of_theirs(kind, first):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = kind(3, 4, batch_first=first)
            self.of_state = kind(4, 2, batch_first=first)

        def forward(self, x):
            y, state = self.rnn(x.reshape(3, 5, 3))
            z, _ = self.of_state(state[0] if isinstance(state, tuple) else state)
            return y.sum() + z.sum(0)

    module, x = Network(), torch.rand(1, 45)
    graph = recurrent_layers_as_operations(graph_of(module, x), (x,), (kind,))
    assert_same(module, graph, torch.rand(1, 45))
    other = lowered(graph, (x,), lambda node, _: "input" not in str(node.target))
    assert_same(module, other, torch.rand(1, 45))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1), (1, 4, 5, 6)),
        (nn.ConvTranspose2d(4, 6, (3, 4), (3, 2), (1, 0), output_padding=(2, 1), groups=2), (1, 4, 5, 6)),
        (nn.ConvTranspose2d(6, 6, 3, 2, 2, dilation=2, groups=6, output_padding=1, bias=False), (1, 6, 5, 4)),
        (nn.ConvTranspose2d(3, 2, 2, 3, 0), (1, 3, 4, 4)),
        (nn.ConvTranspose1d(3, 4, 5, 3, 2, output_padding=2), (1, 3, 7)),
        (nn.ConvTranspose1d(4, 4, 3, 2, 1, groups=4), (1, 4, 6)),
        (nn.ConvTranspose3d(2, 4, 3, 2, 1, output_padding=1, groups=2), (1, 2, 3, 4, 3)),
    ],
)
def test_transposed_convolutions_are_plain_for_litert(layer, shape):
    module, x = nn.Sequential(layer, nn.ReLU()), torch.rand(*shape)
    graph = graph_for_litert(graph_of(module, x), (x,))
    for node in graph.graph.nodes:
        if "conv_transpose" in str(node.target):
            given = dict(enumerate(node.args))
            assert "2d" in str(node.target)
            assert not any(given.get(5) or [])
            assert given.get(6, 1) == 1
        if node.op == "call_module":
            assert has_plain_transpose(graph.get_submodule(str(node.target)))
    assert_same(module, graph, torch.rand(*shape))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.ConvTranspose2d(4, 6, 3, 2, 1, groups=2), (1, 4, 5, 6)),
        (nn.ConvTranspose1d(3, 4, 5, 3, 2, output_padding=2), (1, 3, 7)),
        (nn.ConvTranspose3d(2, 4, 3, 2, 1, groups=2, bias=False), (1, 2, 3, 4, 3)),
    ],
)
def test_transposed_convolutions_without_a_batch_have_none_after_it(layer, shape):
    module, x = nn.Sequential(Function(lambda v: v[0]), layer), torch.rand(*shape)
    graph = graph_for_litert(graph_of(module, x), (x,))
    assert_same(module, graph, torch.rand(*shape))


class Windows(nn.Module):
    """Swin's partition of a volume, its attention in windows and the way back, and more that takes many axes."""

    def forward(self, x):
        rows, depth, height, width, channels = x.shape
        y = x.reshape(rows, depth // 2, 2, height // 3, 3, width // 2, 2, channels).permute(0, 1, 3, 5, 2, 4, 6, 7)
        q, k, v = torch.stack([y, y * 2, y + 1]).unbind(0)
        scores = torch.matmul(q, k.transpose(-1, -2)).softmax(-1)
        z = torch.matmul(scores, v) + q.mean((-2, -1), keepdim=True) + y[..., :1]
        z = torch.cat([z.select(4, 0).unsqueeze(4), z.select(4, 1).unsqueeze(4)], 4)
        z = z.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(rows, depth, height, width, channels)
        return z.unsqueeze(1).expand(-1, 2, -1, -1, -1, -1).sum(1)


def test_many_axes_become_few():
    module, x = Windows(), torch.rand(1, 4, 6, 4, 3)
    graph = graph_of(module, x)
    assert widest(graph, x) == 9
    few = with_few_axes(graph, (x,), 5)
    assert widest(few, x) <= 5
    assert_same(module, few, torch.rand(1, 4, 6, 4, 3))


MANY_AXES = {
    "the largest, and where": lambda x: x.max(1).values + x.min(1).indices,
    "the largest so far": lambda x: x.cummax(2).values,
    "an order, which has no rule": lambda x: x.sort(2).values,
    "a layer of two axes": nn.LayerNorm((2, 3)),
    "its like without a mean": nn.RMSNorm((2, 3)),
    "a column": lambda x: x @ torch.arange(3.0),
    "a row": lambda x: torch.arange(2.0) @ x,
    "truth values counted": lambda x: (x > 0.5).sum(1, dtype=torch.float32),
    "whole numbers averaged": lambda x: (x * 9).int().mean((1, 2), dtype=torch.float32),
    "a wide number": lambda x: x * torch.tensor(2.0, dtype=torch.float64),
}


@pytest.mark.parametrize("name", MANY_AXES)
def test_an_operation_on_many_axes_gives_what_it_gave(name):
    shape = (1, 2, 3, 2, 2, 2, 3)
    module, x = Function(MANY_AXES[name]), torch.rand(*shape)
    few = with_few_axes(graph_of(module, x), (x,), 5)
    assert_same(module, few, torch.rand(*shape))


def test_a_mask_given_by_its_name_is_kept():
    mask = torch.rand(2, 1, 3) > 0.5
    mask[..., 0] = True  # a row of nothing has no answer
    module, x = Function(lambda v: functional.scaled_dot_product_attention(v, v, v, mask)), torch.rand(1, 2, 2, 2, 3, 4)
    graph = graph_of(module, x)
    (attention,) = [n for n in graph.graph.nodes if "attention" in str(n.target)]
    attention.kwargs, attention.args = {"attn_mask": attention.args[3], **attention.kwargs}, attention.args[:3]
    assert_same(module, with_few_axes(graph, (x,), 5), torch.rand(1, 2, 2, 2, 3, 4))


def test_a_graph_of_few_axes_is_left_alone():
    module, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), torch.rand(1, 3, 5, 5)
    graph = graph_of(module, x)
    assert with_few_axes(graph, (x,), 5) is graph


def test_an_expansion_that_broadcasts_by_itself_goes_away():
    module, x = Function(lambda v: v * v.sum(-1, keepdim=True).expand_as(v)), torch.rand(1, 3, 4)
    graph = graph_for_litert(graph_of(module, x), (x,))
    assert not any("expand" in str(n.target) for n in graph.graph.nodes)
    assert_same(module, graph, torch.rand(1, 3, 4))


def test_one_part_is_no_split():
    module, x = Function(lambda v: operator.getitem(v.split(8, 1), 0) + 1), torch.rand(1, 8)
    graph = graph_for_litert(graph_of(module, x), (x,))
    assert not any("split" in str(n.target) for n in graph.graph.nodes)
    assert_same(module, graph, torch.rand(1, 8))


def test_heads_that_share_keys_have_copies_of_them():
    module, x = SharedHeads(), torch.rand(1, 5, 8)
    graph = graph_for_litert(graph_of(module, x), (x,))
    assert not any("expand" in str(n.target) for n in graph.graph.nodes)
    assert_same(module, graph, torch.rand(1, 5, 8))


def test_a_product_over_a_single_number_is_one_of_numbers():
    module, x = Function(lambda v: torch.softmax(v @ v.transpose(1, 2), -1) @ v[:, :1]), torch.rand(1, 1, 7)
    graph = graph_for_litert(graph_of(module, x), (x,))
    assert sum("matmul" in str(n.target) for n in graph.graph.nodes) == 1
    assert_same(module, graph, torch.rand(1, 1, 7))


class MixedProduct(nn.Module):
    """Convolutions of kernel 1 on a product of matrices, as a mixer of hidden states has them."""

    def __init__(self):
        super().__init__()
        self.given, self.mix, self.out = nn.Conv1d(16, 18, 1), nn.Conv1d(16, 32, 1), nn.Conv1d(16, 16, 1)

    def forward(self, x):
        x = x.flatten(2)
        b, c = torch.split(self.given(x), [9, 9], 1)
        h, z = torch.split(self.mix(x @ torch.softmax(b, -1).transpose(1, 2)), [16, 16], 1)
        return self.out(h * z) @ c


def test_a_convolution_of_kernel_1_on_a_product_is_one_of_two_axes():
    module, x = MixedProduct().eval(), torch.rand(1, 16, 4, 4)
    graph = graph_for_litert(graph_of(module, x), (x,))
    called = [graph.get_submodule(str(n.target)) for n in graph.graph.nodes if n.op == "call_module"]
    assert [type(layer) for layer in called] == [nn.Conv1d, nn.Conv2d, nn.Conv1d]
    assert_same(module, graph, torch.rand(1, 16, 4, 4))
    with torch.no_grad():
        converted = litert._converted(graph_of(module, x), (x,))
        np.testing.assert_allclose(converted(x), module(x).numpy(), atol=1e-5)


def test_complex_numbers_are_refused_by_name():
    module, x = Function(lambda v: torch.fft.fft2(v).angle()), torch.rand(1, 4, 6)
    graph = graph_for_litert(graph_of(module, x), (x,))
    with pytest.raises(UnsupportedError, match=r"LiteRT has no complex numbers: operator aten\.\w+"):
        refuse_complex(graph, (x,))


def test_float64_is_named_where_litert_refuses_it():
    class Averaged(nn.Module):
        def forward(self, x):
            return x.double().mean(1)

    rows = torch.randn(2, 3)
    module = graph_of_program(torch.export.export(Averaged().eval(), (rows,)))
    assert "operator aten.mean.dim (node 'mean_dim') is in float64" in in_float64(module, (rows,))
    assert not in_float64(graph_of_program(torch.export.export(nn.ReLU().eval(), (rows,))), (rows,))
