"""Operators of ONNX at the edges of what they are given: large numbers, broadcasts, sizes of the batch."""

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgewright.errors import UnsupportedError
from edgewright.intake.onnx_graph import import_onnx

pytestmark = pytest.mark.filterwarnings("ignore")

KINDS = {np.float32: TensorProto.FLOAT, np.float64: TensorProto.DOUBLE, np.int64: TensorProto.INT64}


def model_of(nodes, shape, constants=(), kind=np.float32, results=np.float32, opset=18):
    x = helper.make_tensor_value_info("x", KINDS[kind], shape)
    y = helper.make_tensor_value_info("y", KINDS[results], None)
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in dict(constants).items()]
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 4)]
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y], held), opset_imports=imports, ir_version=9)


def assert_as_onnx_runtime(model, *inputs):
    graph = import_onnx(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for x in inputs:
        with torch.no_grad():
            got = graph(torch.from_numpy(x))
        np.testing.assert_allclose(got.numpy(), session.run(None, {"x": x})[0], rtol=1e-6, atol=1e-30)
    return graph


def of_ml(kind, inputs=("x",), outputs=("y",), **attributes):
    return helper.make_node(kind, list(inputs), list(outputs), domain="ai.onnx.ml", **attributes)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softplus_of_large_numbers(dtype):
    nodes = [helper.make_node("Softplus", ["x"], ["y"])]
    # 1000 in float64 is infinite in ONNX Runtime itself.
    x = np.array([[-100, -5, 0, 15, 19.9, 20.1, 39, 41, 100, 700]], dtype)
    assert_as_onnx_runtime(model_of(nodes, ["n", 10], kind=dtype, results=dtype), x)


def test_a_bias_of_gemm_for_each_row():
    """C of shape (M, 1), where M happens to equal the number of outputs."""
    nodes = [helper.make_node("Gemm", ["x", "b", "c"], ["y"])]
    constants = {"b": np.ones((4, 3), np.float32), "c": np.array([[1], [10], [100]], np.float32)}
    assert_as_onnx_runtime(model_of(nodes, [3, 4], constants), np.ones((3, 4), np.float32))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (3,), (1, 3)])
def test_a_bias_of_gemm_for_each_column_is_that_of_a_layer(shape):
    nodes = [helper.make_node("Gemm", ["x", "b", "c"], ["y"])]
    bias = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape) + 1
    constants = {"b": np.ones((4, 3), np.float32), "c": bias}
    graph = assert_as_onnx_runtime(model_of(nodes, ["n", 4], constants), np.ones((2, 4), np.float32))
    assert [n.op for n in graph.graph.nodes] == ["placeholder", "call_module", "output"]


TWICE = [helper.make_node("Neg", ["x"], ["minus"]), helper.make_node("Concat", ["x", "minus"], ["both"], axis=0)]


def sliced(end, *nodes):
    return [
        *TWICE,
        helper.make_node("Shape", ["x"], ["rows"], end=1),
        *nodes,
        helper.make_node("Slice", ["both", "zero", end, "zero"], ["y"]),
    ]


def test_a_slice_of_as_many_rows_as_there_are_is_the_whole():
    nodes = sliced("twice", helper.make_node("Shape", ["both"], ["twice"], end=1))
    assert_as_onnx_runtime(model_of(nodes, ["n", 2], {"zero": np.array([0])}), *rows(1, 3))


@pytest.mark.parametrize("end", ["rows", "fewer"])
def test_a_slice_of_fewer_rows_than_there_are_is_refused(end):
    nodes = sliced(end, helper.make_node("Sub", ["rows", "one"], ["fewer"]))
    with pytest.raises(UnsupportedError, match="Slice"):
        import_onnx(model_of(nodes, ["n", 2], {"zero": np.array([0]), "one": np.array([1])}))


def rows(*counts):
    return [np.arange(count * 2, dtype=np.float32).reshape(count, 2) for count in counts]


@pytest.mark.parametrize(
    ("node", "columns"),
    [
        (helper.make_node("Div", ["sizes", "two"], ["part"]), 3),
        (helper.make_node("Mod", ["sizes", "two"], ["part"], fmod=1), 1),
    ],
)
def test_sizes_are_divided_towards_zero(node, columns):
    """-7 / 2 is -3 in ONNX, and leaves -1: of the sizes (rows, -7) the second is no more of the batch than it was."""
    nodes = [
        helper.make_node("Shape", ["x"], ["rows"], end=1),
        helper.make_node("Concat", ["rows", "minus_seven"], ["sizes"], axis=0),
        node,
        helper.make_node("Slice", ["part", "one", "two"], ["second"]),
        helper.make_node("Neg", ["second"], ["columns"]),
        helper.make_node("Concat", ["rows", "columns"], ["shape"], axis=0),
        helper.make_node("ConstantOfShape", ["shape"], ["y"]),
    ]
    constants = {"minus_seven": np.array([-7]), "one": np.array([1]), "two": np.array([2])}
    graph = assert_as_onnx_runtime(model_of(nodes, ["n", 2], constants), *rows(2, 3))
    assert graph(torch.zeros(4, 2)).shape == (4, columns)


LARGE = 1 << 24


@pytest.mark.parametrize("values", [{"values_int64s": [4, LARGE + 1, -1]}, {"values_floats": [4.0, 5.0, 6.0]}])
def test_a_label_encoder_tells_large_whole_numbers_apart(values):
    results = np.int64 if "values_int64s" in values else np.float32
    node = of_ml("LabelEncoder", keys_int64s=[LARGE, LARGE + 1, 7], **values)
    x = np.array([[LARGE, LARGE + 1, LARGE + 2, 7, 0]], np.int64)
    assert_as_onnx_runtime(model_of([node], ["n", 5], kind=np.int64, results=results), x)


def test_a_one_hot_encoder_tells_large_whole_numbers_apart():
    node = of_ml("OneHotEncoder", cats_int64s=[LARGE, LARGE + 1, 3])
    assert_as_onnx_runtime(
        model_of([node], ["n", 4], kind=np.int64), np.array([[LARGE, LARGE + 1, LARGE + 2, 3]], np.int64)
    )


@pytest.mark.parametrize("node", [
    of_ml("LabelEncoder", keys_int64s=[3, 3, 5], values_floats=[1.0, 2.0, 3.0]),
    of_ml("OneHotEncoder", cats_int64s=[3, 3, 5]),
])  # fmt: skip
def test_what_is_named_twice_counts_once(node):
    assert_as_onnx_runtime(model_of([node], ["n", 3], kind=np.int64), np.array([[3, 5, 6]], np.int64))


def test_a_one_hot_encoder_of_real_numbers_takes_their_whole_part():
    node = of_ml("OneHotEncoder", cats_int64s=[0, 1, 2])
    assert_as_onnx_runtime(model_of([node], ["n", 5]), np.array([[0.5, -0.5, 1.0, 2.9, 3.0]], np.float32))


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
def test_a_normalizer_as_onnx_runtime(norm):
    x = np.array([[-4, 2], [-4, -2], [0, 0], [-3, 0], [3, 4]], np.float32)
    assert_as_onnx_runtime(model_of([of_ml("Normalizer", norm=norm)], ["n", 2]), x)


def chain(nodes):
    """A tree both of whose children are one node, again and again."""
    last = nodes - 1
    return of_ml(
        "TreeEnsembleRegressor",
        n_targets=1,
        nodes_treeids=[0] * nodes,
        nodes_nodeids=list(range(nodes)),
        nodes_featureids=[0] * nodes,
        nodes_values=[0.5] * nodes,
        nodes_modes=["BRANCH_LEQ"] * last + ["LEAF"],
        nodes_truenodeids=[*range(1, nodes), 0],
        nodes_falsenodeids=[*range(1, nodes), 0],
        target_treeids=[0],
        target_nodeids=[last],
        target_ids=[0],
        target_weights=[2.5],
    )


def test_a_tree_whose_branches_meet_again_is_walked():
    """Its paths, of which there are 2^30, are not written out."""
    graph = assert_as_onnx_runtime(model_of([chain(31)], ["n", 2]), np.zeros((3, 2), np.float32))
    assert not any(n.target is torch.bmm for n in graph.graph.nodes)
