"""Graphs with a fixed batch size: freed where the answers stay what they were, row by row and many at once."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgewright.data import DataSpec
from edgewright.errors import UnsupportedError
from edgewright.intake import child, torch_graph
from edgewright.intake.free_batch import with_free_batch

pytestmark = pytest.mark.filterwarnings("ignore")
RANDOM = np.random.default_rng(0)


def network(middle, batch=1):
    """Flatten written as Reshape to a fixed size, then ``middle`` nodes from "h" to "m", then a dense layer."""
    weight = RANDOM.normal(size=(64, 10)).astype(np.float32)
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["h"]),
        *middle,
        helper.make_node("MatMul", ["m", "weight"], ["y"]),
    ]
    constants = {
        "flat": np.array([batch, 64]),
        "weight": weight,
        "pair": np.array([batch, 2, 32]),
        "first": np.array(0),
    }
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [batch, 8, 8]), ("y", [batch, 10]))
    ]
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


PLAIN = [
    helper.make_node("Reshape", ["h", "pair"], ["p"]),
    helper.make_node("Relu", ["p"], ["r"]),
    helper.make_node("Reshape", ["r", "flat"], ["m"]),
]
MIXING = [
    helper.make_node("ReduceMean", ["h"], ["mean"], axes=[0], keepdims=1),
    helper.make_node("Add", ["h", "mean"], ["m"]),
]
FIRST_ROW = [
    helper.make_node("Gather", ["h", "first"], ["row"], axis=0),
    helper.make_node("Reshape", ["row", "flat"], ["m"]),
]


def taken(path, data, folder):
    spec = DataSpec(path=data, scale=1 / 16)
    return child.take_in(path, spec, folder / "store", "model")


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_is_freed_and_the_graph_takes_many_rows(batch, tmp_path, digits_npz):
    onnx.save(network(PLAIN, batch), tmp_path / "m.onnx")
    intake = taken(tmp_path / "m.onnx", digits_npz, tmp_path)
    assert intake.model.inputs[0].shape == (-1, 8, 8)
    assert intake.model.outputs[0].shape == (-1, 10)
    arrays = np.load(intake.dataset.artifact.path)
    graph = torch_graph.load(intake.model.graph.path)
    for rows in (1, 3, 37):
        with torch.no_grad():
            got = graph(torch.from_numpy(arrays["test.x.x"][:rows])).numpy()
        np.testing.assert_allclose(got, arrays["test.reference.y"][:rows], rtol=1e-4, atol=1e-4)
    assert any(f"the batch size, {batch} in the file, was freed" in note for note in intake.model.notes)


def test_a_reshape_to_a_scalar_stays_as_it_is():
    scalar = [
        helper.make_node("ReduceSum", ["h"], ["sum"], keepdims=1),
        helper.make_node("Reshape", ["sum", "scalar"], ["share"]),
        helper.make_node("Mul", ["h", "share"], ["m"]),
    ]
    model = network(scalar)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(0, np.int64), "scalar"))
    freed = with_free_batch(model)
    shapes = [node.input[1] for node in freed.graph.node if node.op_type == "Reshape"]
    assert shapes == ["free_batch_shape_0", "scalar"]


@pytest.mark.parametrize("middle", [MIXING, FIRST_ROW], ids=["a mean over the batch", "the first row alone"])
def test_what_mixes_or_drops_rows_stays_as_it_is_and_says_so(middle, tmp_path, digits_npz):
    """At a batch of 1 both answer every row rightly; at more they would not."""
    onnx.save(network(middle), tmp_path / "m.onnx")
    intake = taken(tmp_path / "m.onnx", digits_npz, tmp_path)
    assert intake.model.inputs[0].shape == (1, 8, 8)
    assert any("fixed at 1, and stays so" in note for note in intake.model.notes)


def test_several_rows_that_depend_on_one_another_are_refused(tmp_path, digits_npz):
    onnx.save(network(MIXING, 4), tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError, match=r"takes 4 rows at a time.* a device gives one row at a time: export"):
        taken(tmp_path / "m.onnx", digits_npz, tmp_path)


def test_a_program_exported_with_one_example_can_be_trained(tmp_path, digits_npz, digits_cnn):
    """torch.export without dynamic_shapes: what most people write."""
    path = tmp_path / "m.pt2"
    torch.export.save(torch.export.export(digits_cnn, (torch.rand(1, 1, 8, 8),)), path)
    intake = taken(path, digits_npz, tmp_path)
    assert intake.model.inputs[0].shape == (-1, 1, 8, 8)
    graph = torch_graph.load(intake.model.graph.path)
    graph.train()
    loss = graph(torch.rand(16, 1, 8, 8)).square().mean()
    loss.backward()
    assert all(p.grad is not None for p in graph.parameters())


def test_a_free_batch_is_left_alone():
    model = network(PLAIN)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    assert with_free_batch(model) is None
