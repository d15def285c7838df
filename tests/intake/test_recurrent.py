"""Recurrent networks come in written out; graphs with control flow stay ONNX and deploy to edge devices."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgewright.artifact import Precision
from edgewright.data import DataSpec
from edgewright.errors import UnsupportedError
from edgewright.export import export
from edgewright.intake import child, torch_graph
from edgewright.intake.onnx_graph import import_onnx
from edgewright.profile import Platform
from edgewright.store import Store

pytestmark = pytest.mark.filterwarnings("ignore")


class Reader(nn.Module):
    """The rows of an image one after the other."""

    def __init__(self, kind):
        super().__init__()
        self.memory = kind(8, 6, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(12, 10)

    def forward(self, image):
        states, _ = self.memory(image)
        return self.head(states[:, -1])


def taken(path, data, folder):
    spec = DataSpec(path=data, scale=1 / 16)
    return child.take_in(path, spec, folder / "store", "model")


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_network_of_torch_is_written_out_and_trains(kind, tmp_path, digits_npz):
    torch.manual_seed(0)
    network = Reader(kind).eval()
    batch = torch.export.Dim("batch", min=1, max=512)
    program = torch.export.export(network, (torch.rand(2, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "m.pt2")
    intake = taken(tmp_path / "m.pt2", digits_npz, tmp_path)
    assert intake.model.graph is not None, intake.model.graph_refusal
    graph, x = torch_graph.load(intake.model.graph.path), torch.rand(7, 8, 8)
    torch.testing.assert_close(graph(x), network(x), atol=1e-5, rtol=1e-4)
    if kind is not nn.RNN:  # torch's exporter writes that one out itself, each step with a copy of the weights
        assert sum(p.numel() for p in graph.parameters()) <= sum(p.numel() for p in network.parameters())
    graph(x).square().mean().backward()
    assert all(p.grad is not None for p in graph.parameters())


LOOP = """
<ir_version: 8, opset_import: ["" : 17]>
looping (float[1, 8, 8] x) => (float[1, 10] y) {
    flat = Flatten <axis = 1> (x)
    sum = ReduceSum <keepdims = 0> (flat)
    whole = Cast <to = 7> (sum)
    two = Constant <value = int64 {2}> ()
    count = Mod (whole, two)
    always = Constant <value = bool {1}> ()
    h = Loop (count, always, flat) <
        body = step (int64 i, bool go, float[1, 64] before) => (bool on, float[1, 64] after) {
        on = Identity (go)
        half = Constant <value = float {0.5}> ()
        after = Mul (before, half)
    }>
    y = MatMul (h, weight)
}
"""
IF = """
<ir_version: 8, opset_import: ["" : 17]>
choosing (float[1, 8, 8] x) => (float[1, 10] y) {
    flat = Flatten <axis = 1> (x)
    limit = Constant <value = float {100.0}> ()
    largest = ReduceMax <keepdims = 0> (flat)
    high = Greater (largest, limit)
    h = If (high) <
        then_branch = large () => (float[1, 64] a) { a = Neg (flat) },
        else_branch = small () => (float[1, 64] b) { b = Relu (flat) }
    >
    y = MatMul (h, weight)
}
"""


@pytest.mark.parametrize(("text", "operator"), [(LOOP, "Loop"), (IF, "If")])
def test_control_flow_deploys_to_edge_devices(text, operator, tmp_path, digits_npz):
    model = onnx.parser.parse_model(text)
    weight = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "weight"))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError, match=rf"operator {operator} .*--platform edge_device"):
        import_onnx(model)
    intake = taken(tmp_path / "m.onnx", digits_npz, tmp_path)
    assert intake.model.graph is None
    assert operator in intake.model.graph_refusal
    store = Store(tmp_path / "store")
    with pytest.raises(UnsupportedError, match="edge_device still works"):
        export(intake.model, intake.dataset, Platform.ANDROID, Precision.FLOAT32, store)
    made = export(intake.model, intake.dataset, Platform.EDGE_DEVICE, Precision.FLOAT32, store)
    arrays = np.load(intake.dataset.artifact.path)
    session = onnxruntime.InferenceSession(made.artifact.path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    got = [session.run(None, {name: row[None]})[0] for row in arrays["test.x.x"][:256]]
    np.testing.assert_allclose(np.concatenate(got), arrays["test.reference.y"][:256], rtol=1e-4, atol=1e-4)


def test_a_loop_whose_length_all_rows_of_a_batch_decide_needs_a_batch_of_one(tmp_path, digits_npz):
    model = onnx.parser.parse_model(LOOP.replace("float[1,", "float[n,"))
    weight = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "weight"))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError, match=r"depends on the other rows of the batch.*need a batch of 1"):
        taken(tmp_path / "m.onnx", digits_npz, tmp_path)


def test_what_is_not_written_out_is_refused_by_name():
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    long (float[n, 300, 4] x) => (float[300, 1, n, 2] y) {
        steps = Transpose <perm = [1, 0, 2]> (x)
        y = RNN <hidden_size = 2> (steps, w, r)
    }
    """
    model = onnx.parser.parse_model(text)
    for name, shape in (("w", (1, 2, 4)), ("r", (1, 2, 2))):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    with pytest.raises(UnsupportedError, match=r"RNN.*300 steps; up to 256"):
        import_onnx(model)


def test_each_loop_keeps_the_constants_of_its_own_body():
    """Loops one after the other, as recurrent layers that mask their steps come out: each adds another number."""
    loops = 24
    bodies, state = [], "x"
    for place in range(loops):
        index = helper.make_tensor_value_info("index", TensorProto.INT64, [])
        go_on = helper.make_tensor_value_info("go_on", TensorProto.BOOL, [])
        stays = helper.make_tensor_value_info("stays", TensorProto.BOOL, [])
        before = helper.make_tensor_value_info("before", TensorProto.FLOAT, None)
        after = helper.make_tensor_value_info("after", TensorProto.FLOAT, None)
        body = helper.make_graph(
            [
                helper.make_node("Identity", ["go_on"], ["stays"]),
                helper.make_node("Add", ["before", f"step_{place % 3}"], ["after"]),
            ],
            "body",
            [index, go_on, before],
            [stays, after],
            [numpy_helper.from_array(np.array(place, np.float32), f"step_{place % 3}")],
        )
        bodies.append(helper.make_node("Loop", ["twice", "always", state], [f"state_{place}"], body=body))
        state = f"state_{place}"
    constants = {"twice": np.array(2, np.int64), "always": np.array(1, bool)}
    graph = helper.make_graph(
        bodies,
        "loops",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info(state, TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    got = import_onnx(model)(torch.zeros(2, 3))
    np.testing.assert_array_equal(got, np.full((2, 3), 2.0 * sum(range(loops)), np.float32))
