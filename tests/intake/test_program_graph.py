"""A torch.export program as the internal graph: layers raised, everything else as it is, answers the same."""

import operator

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgewright.data import DataSpec
from edgewright.errors import InputError, UnsupportedError
from edgewright.intake import torch_graph
from edgewright.intake.aten import is_pure, named_operation
from edgewright.intake.free_program import freed
from edgewright.intake.program_graph import graph_of_program, refuse_training_mode
from edgewright.intake.torch_source import TorchSource

pytestmark = pytest.mark.filterwarnings("ignore")
BATCH = torch.export.Dim("batch", min=1, max=1 << 16)


def program_of(module, *examples, fixed=False):
    module.eval()
    free = None if fixed else tuple({0: BATCH} for _ in examples)
    return torch.export.export(module, examples, dynamic_shapes=free)


def results(value):
    return list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, tuple) else [value]


def assert_same(module, graph, *makers):
    """For 1, 2 and 7 rows."""
    for rows in (1, 2, 7):
        inputs = [make(rows) for make in makers]
        with torch.no_grad():
            expected, found = module(*(i.clone() for i in inputs)), graph(*inputs)
        for a, b in zip(results(expected), results(found), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def kinds(graph):
    return [type(graph.get_submodule(str(n.target))).__name__ for n in graph.graph.nodes if n.op == "call_module"]


class Everything(nn.Module):
    """One of each family that has a layer, and operations that have none."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.up = nn.ConvTranspose2d(8, 8, 3, 2, 1, output_padding=1, groups=2)
        self.norms = nn.Sequential(nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True), nn.PReLU(8))
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        y = self.norms(self.up(self.stem(x)))
        y = y + 1
        y += y.mean((2, 3), keepdim=True)
        y = self.encoder(y.flatten(2).transpose(1, 2)).mean(1)
        return self.head(self.drop(y))


def test_layers_are_raised_and_the_answers_stay():
    module = Everything()
    graph = graph_of_program(program_of(module, torch.rand(2, 3, 9, 9)))
    assert_same(module, graph, lambda n: torch.rand(n, 3, 9, 9))
    found = kinds(graph)
    for kind in ("Conv2d", "BatchNorm2d", "ConvTranspose2d", "GroupNorm", "InstanceNorm2d", "PReLU", "LayerNorm"):
        assert kind in found
    assert found.count("Linear") == 5  # of attention: what goes in, what comes out; two behind it; the head
    assert graph.get_submodule("stem.0").weight.shape == (8, 3, 3, 3)
    assert [n.target for n in graph.graph.nodes if n.op == "call_module"][-1] == "head"
    assert graph.get_submodule("drop").p == 0.3  # training needs it


def test_the_file_gives_back_the_same_network(tmp_path):
    graph = graph_of_program(program_of(Everything(), torch.rand(2, 3, 9, 9)))
    torch_graph.save(graph, tmp_path / "g.safetensors")
    again = torch_graph.load(tmp_path / "g.safetensors")
    x = torch.rand(3, 3, 9, 9)
    torch.testing.assert_close(graph(x), again(x), rtol=0, atol=0)
    torch_graph.save(again, tmp_path / "h.safetensors")
    assert (tmp_path / "g.safetensors").read_bytes() == (tmp_path / "h.safetensors").read_bytes()


class Scaling(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.b = nn.Parameter(torch.full((4,), by))
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return self.inner(x * self.b)


@pytest.mark.parametrize("parameter_first", [True, False])
def test_names_that_become_one_path_stay_distinct(parameter_first, tmp_path):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            for name, by in (("a", 2.0), ("a+b", 3.0), ("a_b_1", 5.0)):
                self.add_module(name, Scaling(by))
            self.a_b = nn.Parameter(torch.full((4,), 7.0))
            self.register_parameter("a+c", nn.Parameter(torch.full((4,), 11.0)))
            self.a_c = Scaling(13.0)

        def forward(self, x):
            parts = [x + self.a_b, self.a(x) + self.a_b_1(x) + getattr(self, "a+b")(x)]
            parts += [x * getattr(self, "a+c"), self.a_c(x)]
            return sum(parts if parameter_first else parts[::-1])

    torch.manual_seed(0)
    module, x = Network(), torch.randn(3, 4)
    graph = graph_of_program(torch.export.export(module.eval(), (x,)))
    torch_graph.save(graph, tmp_path / "graph.safetensors")
    for form in (graph, torch_graph.load(tmp_path / "graph.safetensors")):
        torch.testing.assert_close(form(x), module(x))
        assert sum(isinstance(layer, nn.Linear) for layer in form.modules()) == 4


def test_what_is_shared_stays_one(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.twice = nn.Embedding(11, 6), nn.Linear(6, 6)
            self.out = nn.Linear(6, 11, bias=False)
            self.out.weight = self.words.weight

        def forward(self, ids):
            return self.out(self.twice(functional.relu(self.twice(self.words(ids))))).mean(1)

    module = Tied()
    graph = graph_of_program(program_of(module, torch.randint(0, 11, (2, 4))))
    assert_same(module, graph, lambda n: torch.randint(0, 11, (n, 4)))
    called = [str(n.target) for n in graph.graph.nodes if n.op == "call_module"]
    assert called.count("twice") == 2
    torch_graph.save(graph, tmp_path / "g.safetensors")
    again = torch_graph.load(tmp_path / "g.safetensors")
    assert len({id(p) for p in again.parameters()}) == 3
    embedding, output = (again.get_submodule(called[place]) for place in (0, -1))
    assert embedding.weight is output.weight


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize(("layers", "both", "first"), [(1, False, True), (2, True, True), (1, True, False)])
def test_recurrent_layers_are_layers_again(kind, layers, both, first, tmp_path):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = kind(5, 4, layers, batch_first=first, bidirectional=both)
            self.head = nn.Linear(8 if both else 4, 3)

        def forward(self, x):
            y, _ = self.rnn(x if first else x.transpose(0, 1))
            return self.head(y[:, -1] if first else y[-1])

    module = Network()
    graph = graph_of_program(program_of(module, torch.rand(2, 6, 5)))
    assert_same(module, graph, lambda n: torch.rand(n, 6, 5))
    assert kind.__name__ in kinds(graph)
    torch_graph.save(graph, tmp_path / "g.safetensors")
    x = torch.rand(3, 6, 5)
    torch.testing.assert_close(torch_graph.load(tmp_path / "g.safetensors")(x), graph(x))


def test_a_recurrent_layer_that_is_given_and_gives_its_state():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.begin = nn.LSTM(5, 4, batch_first=True), nn.Linear(5, 4)

        def forward(self, x):
            start = self.begin(x[:, 0]).unsqueeze(0)
            y, (hidden, cell) = self.rnn(x, (start, start * 2))
            return y.sum(1) + hidden[0] - cell[0]

    module = Network()
    graph = graph_of_program(program_of(module, torch.rand(2, 6, 5)))
    assert "LSTM" in kinds(graph)
    assert_same(module, graph, lambda n: torch.rand(n, 6, 5))


def test_writing_in_place_is_written_anew():
    class Writing(nn.Module):
        def forward(self, x):
            y = x * 2
            view = y[:, 0]
            y[:, 1] = view + 1  # a slice of what is read later, under two names
            view.mul_(3)
            z = functional.relu_(y - 1)
            z += y
            return z

    module = Writing()
    graph = graph_of_program(program_of(module, torch.rand(2, 3)))
    assert_same(module, graph, lambda n: torch.rand(n, 3))
    assert all(is_pure(n.target) for n in graph.graph.nodes if isinstance(n.target, torch._ops.OpOverload))


def test_a_value_that_is_read_before_and_after_it_is_overwritten():
    class Aliased(nn.Module):
        def forward(self, x):
            y = x + 0
            before = y.reshape(-1, 4)
            y.add_(1)
            return before + y.reshape(-1, 4)  # the first one shares the memory: it changed as well

    module = Aliased()
    graph = graph_of_program(program_of(module, torch.rand(2, 2, 2)))
    assert_same(module, graph, lambda n: torch.rand(n, 2, 2))


def test_regions_without_gradient_are_written_out():
    class Quiet(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            with torch.no_grad():
                scale = self.layer(x).abs().amax(1, keepdim=True)
            return x / (scale + 1)

    module = Quiet()
    graph = graph_of_program(program_of(module, torch.rand(2, 4)))
    assert kinds(graph) == ["Linear"]
    assert_same(module, graph, lambda n: torch.rand(n, 4))


def test_a_weight_made_of_parameters_becomes_one():
    module = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 4, 3)), nn.ReLU(), nn.Flatten())
    graph = graph_of_program(program_of(module, torch.rand(2, 3, 8)))
    assert kinds(graph) == ["Conv1d"]
    assert len(list(graph.parameters())) == 2
    assert_same(module, graph, lambda n: torch.rand(n, 3, 8))


def test_a_decomposed_program_is_raised_as_well():
    module = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 49, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    )
    program = program_of(module, torch.rand(2, 3, 9, 9)).run_decompositions()
    graph = graph_of_program(program)
    assert kinds(graph) == ["Conv2d", "BatchNorm2d", "Linear", "LayerNorm", "Linear"]
    assert_same(module, graph, lambda n: torch.rand(n, 3, 9, 9))


def test_control_flow_is_refused_by_name():
    class Branching(nn.Module):
        def forward(self, x):
            return torch.cond(x.sum() > 0, lambda v: v + 1, lambda v: v - 1, (x,))

    with pytest.raises(UnsupportedError, match="cond"):
        graph_of_program(program_of(Branching(), torch.rand(2, 3)))


TRAINING = [
    (nn.Dropout(0.3), "dropout"),
    (nn.BatchNorm1d(4), "batch_norm"),
    (nn.LSTM(4, 4, 2, dropout=0.1), "lstm"),
    (nn.RReLU(), "rrelu"),
]


@pytest.mark.parametrize(("layer", "operation"), TRAINING)
def test_a_program_in_training_mode_is_refused(layer, operation):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer.train()

        def forward(self, x):
            found = self.layer(x)
            return found[0] if isinstance(found, tuple) else found

    program = torch.export.export(Network(), (torch.rand(3, 4),) if operation != "lstm" else (torch.rand(3, 2, 4),))
    with pytest.raises(InputError, match=rf"training mode.*{operation}.*model.eval\(\)"):
        refuse_training_mode(program, "m.pt2")


def test_a_batch_that_was_fixed_is_freed():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4 * 16, 5)
            self.token = nn.Parameter(torch.rand(1, 1, 5))

        def forward(self, x):
            y = self.head(self.conv(x).view(x.shape[0], -1)).unsqueeze(1)
            return torch.cat([self.token.expand(x.shape[0], -1, -1), y], 1).flatten(1)

    for size in (1, 4):
        module = Fixed()
        graph = freed(graph_of_program(program_of(module, torch.rand(size, 3, 8, 8), fixed=True)), size)
        assert graph is not None
        assert_same(module, graph, lambda n: torch.rand(n, 3, 8, 8))


def saved(tmp_path, module, *examples, names=("x",), rows=12):
    program = program_of(module, *examples)
    torch.export.save(program, tmp_path / "m.pt2")
    arrays = {}
    for split in ("train", "test"):
        for name, example in zip(names, examples, strict=True):
            wide = example[:1].expand(rows, *example.shape[1:]) if example.dtype == torch.int64 else None
            key = f"x_{split}.{name}" if len(names) > 1 else f"x_{split}"
            arrays[key] = torch.rand(rows, *example.shape[1:]).numpy() if wide is None else wide.clone().numpy()
        arrays[f"y_{split}"] = np.arange(rows) % 2
    np.savez(tmp_path / "d.npz", **arrays)
    return TorchSource(tmp_path / "m.pt2", DataSpec(path=tmp_path / "d.npz"))


def test_several_inputs_and_outputs_have_names(tmp_path):
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(7, 3), nn.Linear(4, 2)

        def forward(self, pixels, word):
            joined = torch.cat([pixels, self.words(word)], 1)[:, :4]
            return {"scores": self.head(joined), "features": joined, "positions": torch.arange(5)}

    source = saved(tmp_path, Several(), torch.rand(2, 3), torch.tensor([1, 2]), names=("pixels", "word"))
    assert [t.name for t in source.inputs] == ["pixels", "word"]
    assert [(t.name, t.shape) for t in source.outputs] == [("scores", (-1, 2)), ("features", (-1, 4))]
    assert any("positions" in note and "left out" in note for note in source.notes)
    graph = source.to_graph()
    answers, _ = source.answers()
    with torch.no_grad():
        found = graph(*(torch.from_numpy(x) for x in source.inputs_of("test")))
    for a, b in zip(answers, found, strict=True):
        np.testing.assert_allclose(a, b.numpy(), atol=1e-6)


def test_data_that_an_operation_refuses_is_said_to_be_so(tmp_path):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(4, 2)

        def forward(self, word):
            return self.table(word)

    source = saved(tmp_path, Words(), torch.tensor([1, 2]), names=("word",))
    with pytest.raises(InputError, match="the model refuses its own data: PyTorch: index out of range"):
        source.ask([np.array([1, 9])])


def test_hostile_operations_have_no_place():
    for name in (
        "from_file.default",
        "save.default",
        "relu_.default",
        "_nested_view_from_buffer.default",
        "set_.source_Tensor",
    ):
        assert named_operation(f"torch.ops.aten.{name}") is None
    assert named_operation("torch.ops.prim.Print.default") is None
    assert named_operation("torch.ops.aten.relu.default") is torch.ops.aten.relu.default
    assert not is_pure(operator.add)


def test_a_graph_file_that_names_such_an_operation_is_refused(tmp_path):
    class Plain(nn.Module):
        def forward(self, x):
            return torch.relu(x)

    torch_graph.save(graph_of_program(program_of(Plain(), torch.rand(2, 3))), tmp_path / "g.safetensors")
    content = (tmp_path / "g.safetensors").read_bytes()
    assert content.count(b"aten.relu.default") == 1
    (tmp_path / "g.safetensors").write_bytes(content.replace(b"aten.relu.default", b"aten.save.default"))
    with pytest.raises(InputError, match="damaged"):
        torch_graph.load(tmp_path / "g.safetensors")
