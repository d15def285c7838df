"""Inner values that bear the name of an output."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from edgewright.export import onnx_file, onnx_runtime
from edgewright.intake import torch_graph
from edgewright.intake.program_graph import graph_of_program
from edgewright_runtime.bundle.manifest import TensorSpec

pytestmark = pytest.mark.filterwarnings("ignore")


class Network(nn.Module):
    """Two outputs that are the same value, a third that is the input, and a concatenation on the way."""

    def forward(self, x):
        joined = torch.cat([x, x + 1], 1)
        made = torch.relu(joined) * 2
        return made, made, x


@pytest.mark.parametrize("names", [["cat", "relu", "mul"], ["mul", "cat", "add"], ["a", "b", "c"]])
def test_an_output_may_be_named_as_an_inner_value(names: list[str], tmp_path: Path) -> None:
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(Network(), (torch.randn(2, 3),), dynamic_shapes=batch)
    torch_graph.save(graph_of_program(program), tmp_path / "graph.pt2")
    spec = TensorSpec("x", (-1, 3), "float32")
    onnx_runtime.convert(tmp_path / "graph.pt2", [spec], names, tmp_path / "model.onnx")
    onnx.checker.check_model(onnx_file.load(tmp_path / "model.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    rows = torch.randn(7, 3)
    found = session.run(names, {"x": rows.numpy()})
    for one, expected in zip(found, Network()(rows), strict=True):
        np.testing.assert_allclose(one, expected.numpy(), rtol=1e-6)


class Clamps(nn.Module):
    """One value between several pairs of bounds, each a tensor, as networks have them that were trained for int8."""

    def __init__(self) -> None:
        super().__init__()
        for number, bound in enumerate((1.0, 0.5, 2.0)):
            self.register_buffer(f"low_{number}", torch.tensor(-bound))
            self.register_buffer(f"high_{number}", torch.tensor(bound))
        self.first, self.second = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        x = x * 2
        one, other = (torch.clamp(x, getattr(self, f"low_{n}"), getattr(self, f"high_{n}")) for n in (0, 1))
        return self.first(one), self.second(other), torch.clamp(x, self.low_0, self.high_2)


def test_one_value_may_be_clamped_several_times(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Clamps().eval()
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(network, (torch.randn(2, 4),), dynamic_shapes=batch)
    torch_graph.save(graph_of_program(program), tmp_path / "graph.pt2")
    names = ["first", "second", "third"]
    onnx_runtime.convert(tmp_path / "graph.pt2", [TensorSpec("x", (-1, 4), "float32")], names, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    rows = 2 * torch.randn(9, 4)
    for one, expected in zip(session.run(names, {"x": rows.numpy()}), network(rows), strict=True):
        np.testing.assert_allclose(one, expected.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("eps", [1e-8, 1e-12])
def test_a_small_constant_that_keeps_from_dividing_by_zero_stays(eps: float, tmp_path: Path) -> None:
    class Shares(nn.Module):
        def forward(self, x):
            return x / (x.sum(1, keepdim=True) + eps) * 1.000001

    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(Shares(), (torch.rand(2, 4),), dynamic_shapes=batch)
    torch_graph.save(graph_of_program(program), tmp_path / "graph.pt2")
    onnx_runtime.convert(tmp_path / "graph.pt2", [TensorSpec("x", (-1, 4), "float32")], ["y"], tmp_path / "m.onnx")
    onnx_runtime.optimize(tmp_path / "m.onnx", tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    rows = torch.cat([torch.zeros(1, 4), torch.rand(3, 4)])
    (found,) = session.run(None, {"x": rows.numpy()})
    np.testing.assert_allclose(found, Shares()(rows).numpy(), rtol=2e-7)
