"""Passes over an ONNX graph, on the forms that such a graph may take: branches, damaged fields, names of its own."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgewright.errors import InputError
from edgewright.export import onnx_file, onnx_runtime
from edgewright.export.stored import describe

FLOAT = TensorProto.FLOAT


def value(name, *shape, dtype=FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def constants(**arrays):
    return [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]


def saved(path, nodes, inputs, outputs, initializers=(), opset=18):
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializers))
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=9), path)
    return path


def two_layers(path):
    rng = np.random.default_rng(0)
    weights = constants(
        w1=rng.normal(size=(64, 32)).astype(np.float32),
        b1=rng.normal(size=32).astype(np.float32),
        w2=rng.normal(size=(32, 8)).astype(np.float32),
        b2=rng.normal(size=8).astype(np.float32),
    )
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="first"),
        helper.make_node("Gemm", ["h", "w2", "b2"], ["y"], name="last"),
    ]
    return saved(path, nodes, [value("x", None, 64)], [value("y", None, 8)], weights)


@pytest.mark.parametrize("kept", ["h", "first"])
@pytest.mark.parametrize(
    ("quantize", "operator"),
    [(onnx_runtime.to_int4, "MatMulNBits"), (onnx_runtime.quantize_dynamically, "MatMulInteger")],
)
def test_a_dense_layer_that_stays_float_is_not_quantized(tmp_path: Path, quantize, operator, kept) -> None:
    quantize(two_layers(tmp_path / "m.onnx"), "m", tmp_path / "q.onnx", [kept])
    made = onnx.load(tmp_path / "q.onnx").graph
    kinds = [node.op_type for node in made.node]
    assert kinds.count(operator) == 1
    assert kinds.count("MatMul") + kinds.count("Gemm") == 1
    assert [64, 32] in [list(t.dims) for t in made.initializer if t.data_type == FLOAT]


def test_a_value_that_a_branch_alone_reads_is_kept_in_half_precision(tmp_path: Path) -> None:
    """`s` stays float32 and is read in the branches only, past the casts around it."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="dense"),
        helper.make_node("Sigmoid", ["h"], ["s"], name="kept"),
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0, name="total"),
        helper.make_node("Greater", ["total", "zero"], ["is_more"], name="more"),
        helper.make_node(
            "If",
            ["is_more"],
            ["y"],
            name="choice",
            then_branch=helper.make_graph([helper.make_node("Relu", ["s"], ["a"])], "then", [], [value("a", None, 4)]),
            else_branch=helper.make_graph([helper.make_node("Neg", ["s"], ["b"])], "else", [], [value("b", None, 4)]),
        ),
    ]
    weights = constants(w=np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32), zero=np.float32(0))
    path = saved(tmp_path / "m.onnx", nodes, [value("x", None, 4)], [value("y", None, 4)], weights)
    onnx_runtime.to_float16(path, "m", tmp_path / "half.onnx", ["kept"])
    x = np.ones((2, 4), np.float32)
    expected = onnxruntime.InferenceSession(str(path)).run(None, {"x": x})[0]
    found = onnxruntime.InferenceSession(str(tmp_path / "half.onnx")).run(None, {"x": x})[0]
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_cast_to_whole_numbers_is_known_by_its_attributes_name(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "k"], ["scaled"], name="scaled"),
        helper.make_node("Cast", ["scaled"], ["id"], name="id", saturate=1, to=TensorProto.INT64),
    ]
    nodes[1].attribute.sort(key=lambda a: a.name)  # `saturate` first
    path = saved(
        tmp_path / "m.onnx", nodes, [value("x", 4)], [value("id", 4, dtype=7)], constants(k=np.float32(3)), opset=19
    )
    assert sorted(onnx_file.nodes_to_whole_numbers(onnx.load(path))) == ["id", "scaled"]


def test_a_name_that_is_given_is_no_other_nodes() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Relu", ["a"], ["y"], name="Relu_0")]
    model = helper.make_model(helper.make_graph(nodes, "g", [value("x", 4)], [value("y", 4)]))
    onnx_file.name_nodes(model)
    assert len({node.name for node in model.graph.node}) == 2
    assert model.graph.node[1].name == "Relu_0"


@pytest.mark.parametrize(("key", "wrong"), [("offset", "999999"), ("offset", "-5"), ("offset", "x"), ("length", "x")])
def test_external_data_that_lies_elsewhere_is_refused_in_one_line(tmp_path: Path, key, wrong) -> None:
    path = two_layers(tmp_path / "m.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="m.data", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    next(e for e in model.graph.initializer[0].external_data if e.key == key).value = wrong
    onnx.save(model, path)
    with pytest.raises(InputError, match="not a readable ONNX model"):
        onnx_file.load(path)


def test_an_unknown_type_is_refused_by_the_tensors_name(tmp_path: Path) -> None:
    path = two_layers(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.elem_type = 99
    onnx.save(model, path)
    with pytest.raises(InputError, match="the tensor 'x' is of type 99"):
        onnx_file.tensors(path)


@pytest.mark.parametrize("damage", [{"data_type": 99}, {"raw_data": b"123"}])
def test_a_damaged_constant_is_refused_by_its_name(tmp_path: Path, damage) -> None:
    path = two_layers(tmp_path / "m.onnx")
    model = onnx.load(path)
    for name, wrong in damage.items():
        setattr(model.graph.initializer[0], name, wrong)
    onnx.save(model, path)
    with pytest.raises(InputError, match="the tensor 'w1' cannot be read"):
        describe(path)


def quantized_layer(path):
    """A convolution on integers, as ONNX's own quantized operators write it."""
    weights = constants(
        scale=np.float32(0.1),
        zero=np.uint8(3),
        w=np.array([1, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], np.int8).reshape(3, 4, 1, 1),
        w_scale=np.float32([0.1, 0.2, 0.3]),
        w_zero=np.zeros(3, np.int8),
        bias=np.array([1, 2, 3], np.int32),
    )
    names = ["x", "scale", "zero", "w", "w_scale", "w_zero", "scale", "zero", "bias"]
    nodes = [helper.make_node("QLinearConv", names, ["y"])]
    shapes = [value("x", 1, 4, 5, 5, dtype=TensorProto.UINT8)], [value("y", 1, 3, 5, 5, dtype=TensorProto.UINT8)]
    return saved(path, nodes, *shapes, weights)


def test_integers_that_a_layer_multiplies_by_are_parameters(tmp_path: Path) -> None:
    found = describe(quantized_layer(tmp_path / "conv.onnx"))
    assert found.parameters == 12 + 3
    assert found.sparsity == pytest.approx(1 / 15)
    source = two_layers(tmp_path / "m.onnx")
    parameters = describe(source).parameters
    assert parameters == 64 * 32 + 32 + 32 * 8 + 8
    onnx_runtime.quantize_dynamically(source, "m", tmp_path / "dynamic.onnx")
    assert describe(tmp_path / "dynamic.onnx").parameters == parameters
    onnx_runtime.to_int4(source, "m", tmp_path / "int4.onnx")
    found = describe(tmp_path / "int4.onnx")
    assert found.parameters == parameters
    assert {w.dtype: w.elements for w in found.weights}["uint4"] == 64 * 32 + 32 * 8


def test_zeros_of_4_bits_are_counted_without_the_filling_of_a_block(tmp_path: Path) -> None:
    weight = np.ones((40, 8), np.float32)  # 40 inputs: two blocks of 32, the second filled up
    weight[:7, 3] = 0
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    path = saved(tmp_path / "m.onnx", nodes, [value("x", None, 40)], [value("y", None, 8)], constants(w=weight))
    onnx_runtime.to_int4(path, "m", tmp_path / "int4.onnx")
    assert describe(tmp_path / "int4.onnx").sparsity == pytest.approx(7 / 320)


@pytest.mark.parametrize(
    ("opset", "ir_version", "floor"),
    [(18, 8, "1.14"), (23, 11, "1.23"), (24, 11, "1.24"), (25, 11, "1.24"), (18, 12, "1.24"), (18, 13, "1.24")],
)
def test_the_oldest_runtime_that_reads_a_file_is_told(opset, ir_version, floor) -> None:
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value("x", 4)], [value("y", 4)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    assert onnx_file.runtime_floor(model) == floor
    # What no release of the table reads, the one here does, and says so.
    model.opset_import[0].version = 99
    assert onnx_file.runtime_floor(model) == ".".join(onnxruntime.__version__.split(".")[:2])
