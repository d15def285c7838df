import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import fx, nn

from edgewright.errors import InputError, UnsupportedError
from edgewright.intake import torch_graph


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=(1, 0), groups=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.slope = nn.PReLU(4)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(4, 5)
        self.register_buffer("shift", torch.arange(5.0))

    def forward(self, x):
        x = self.slope(self.up(torch.relu(self.norm(self.conv(x)))))
        x = torch.mean(x, (2, 3))
        return torch.clamp(self.head(self.drop(x)) + self.shift, -float("inf"), 3.5), x[:, 1:3]


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = Net()
    for _ in range(3):
        model(torch.rand(4, 3, 9, 9))
    graph = fx.symbolic_trace(model.eval())
    for node in graph.graph.nodes:  # `+` is traced as operator.add
        assert node.op != "call_method"
    return graph


def test_a_graph_comes_back_as_it_was(net, tmp_path):
    torch_graph.save(net, tmp_path / "a")
    loaded = torch_graph.load(tmp_path / "a")
    x = torch.rand(2, 3, 9, 9)
    for got, expected in zip(loaded(x), net(x), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert [n.name for n in loaded.graph.nodes] == [n.name for n in net.graph.nodes]
    assert dict(loaded.named_parameters()).keys() == dict(net.named_parameters()).keys()
    assert dict(loaded.named_buffers()).keys() == dict(net.named_buffers()).keys()
    assert all(p.requires_grad for p in loaded.parameters())
    assert not loaded.norm.training


def test_the_bytes_depend_on_the_model_alone(net, tmp_path):
    torch_graph.save(net, tmp_path / "a")
    torch_graph.save(torch_graph.load(tmp_path / "a"), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with torch.no_grad():
        net.head.bias[0] += 1
    torch_graph.save(net, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


def test_layers_that_were_pruned_by_hand_keep_their_new_shapes(net, tmp_path):
    """Attributes such as out_channels go stale when only the weights are replaced."""
    net.conv.weight = nn.Parameter(net.conv.weight[:6].detach())
    for name in ("weight", "bias"):
        setattr(net.norm, name, nn.Parameter(getattr(net.norm, name)[:6].detach()))
    net.norm.running_mean, net.norm.running_var = net.norm.running_mean[:6], net.norm.running_var[:6]
    net.up.weight = nn.Parameter(net.up.weight[:6].detach())
    torch_graph.save(net, tmp_path / "a")
    loaded = torch_graph.load(tmp_path / "a")
    x = torch.rand(2, 3, 9, 9)
    torch.testing.assert_close(loaded(x)[0], net(x)[0], rtol=0, atol=0)
    assert loaded.conv.out_channels == 6


def test_a_layer_split_in_two_is_kept(net, tmp_path):
    first, second = nn.Linear(4, 2, bias=False), nn.Linear(2, 5)
    net.head = nn.Sequential(first, second)
    with pytest.raises(UnsupportedError, match="Sequential"):
        torch_graph.save(net, tmp_path / "a")


def test_unknown_functions_and_methods_are_refused(tmp_path):
    class Calls(nn.Module):
        def forward(self, x):
            return torch.fft.fft(x)

    class Method(nn.Module):
        def forward(self, x):
            return x.relu()

    for module, words in ((Calls(), "fft"), (Method(), "relu")):
        with pytest.raises(UnsupportedError, match=words):
            torch_graph.save(fx.symbolic_trace(module), tmp_path / "a")


def tampered(path, change):
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        document = json.loads(file.metadata()["edgewright_graph"])
    change(document)
    save_file(load_file(path), path, {"edgewright_graph": json.dumps(document)})


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["nodes"][2].update(op="call_function", target="os.system"),
        lambda d: d["nodes"][2].update(op="call_method", target="relu"),
        lambda d: d["nodes"][1].update(target='conv"); print("x'),
        lambda d: d["nodes"][1].update(name="x = 1; y"),
        lambda d: d["nodes"][1].update(op="get_attr", target="__init__.__globals__"),
        lambda d: d["layers"]["conv"].update({"class": "Module"}),
        lambda d: d["layers"]["conv"]["arguments"].update(out_channels=7),
        lambda d: d["nodes"][-2]["args"].update(tuple=[{"node": "nowhere"}]),
        lambda d: d.update(schema=99),
        lambda d: d.pop("nodes"),
    ],
)
def test_a_tampered_file_is_refused(net, tmp_path, change):
    torch_graph.save(net, tmp_path / "a")
    tampered(tmp_path / "a", change)
    with pytest.raises(InputError):
        torch_graph.load(tmp_path / "a")


def test_a_truncated_file_is_refused(net, tmp_path):
    torch_graph.save(net, tmp_path / "a")
    content = (tmp_path / "a").read_bytes()
    for end in range(0, len(content), 501):
        (tmp_path / "a").write_bytes(content[:end])
        with pytest.raises(InputError):
            torch_graph.load(tmp_path / "a")


@pytest.mark.parametrize("document", ["[]", "3", "null", "[" * 100_000, '{"a":' * 100_000])
def test_a_document_of_another_shape_is_refused(document, tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "g", {"edgewright_graph": document})
    with pytest.raises(InputError, match="not a readable Edgewright graph"):
        torch_graph.load(tmp_path / "g")


def test_arguments_of_great_depth_are_damage(net, tmp_path):
    """As deep as the reader of JSON goes, which may be deeper than Python's own functions."""
    torch_graph.save(net, tmp_path / "a")
    with safe_open(tmp_path / "a", framework="pt") as file:
        text = file.metadata()["edgewright_graph"]
    document = json.loads(text)
    document["nodes"][-1]["args"] = "deep"
    text = json.dumps(document).replace('"deep"', "[" * 990 + "]" * 990)
    save_file(load_file(tmp_path / "a"), tmp_path / "b", {"edgewright_graph": text})
    with pytest.raises(InputError, match="Edgewright graph"):
        torch_graph.load(tmp_path / "b")
