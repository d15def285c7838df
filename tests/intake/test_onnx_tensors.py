"""ONNX files that are not whole, and sparse tensors: one clear line, or an answer."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from edgewright.data import DataSpec
from edgewright.errors import InputError, UnsupportedError
from edgewright.intake import child
from edgewright.intake.onnx_graph import import_onnx
from edgewright.intake.onnx_source import OnnxSource, external_files, load_onnx

pytestmark = pytest.mark.filterwarnings("ignore")
WEIGHT = np.zeros((64, 10), np.float32)
WEIGHT[[0, 9, 33], [1, 2, 3]] = 1, 2, 3


@pytest.fixture
def spec(digits_npz):
    return DataSpec(path=digits_npz)


def network(*nodes, held=(), result="y"):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8, 8])
    y = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), *nodes]
    return helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], list(held)), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )


PRODUCT = helper.make_node("MatMul", ["flat", "w"], ["y"])


def sparse(places, shape=(64, 10), values=(1, 2, 3)):
    numbers = numpy_helper.from_array(np.array(values, np.float32), "w")
    return helper.make_sparse_tensor(numbers, numpy_helper.from_array(np.array(places), "places"), list(shape))


@pytest.mark.parametrize("places", [[1, 92, 333], [[0, 1], [9, 2], [33, 3]]], ids=["flat", "by axis"])
@pytest.mark.parametrize("way", ["initializer", "constant"])
def test_a_sparse_tensor_is_taken_as_the_dense_one(tmp_path, spec, places, way):
    if way == "initializer":
        model = network(PRODUCT)
        model.graph.sparse_initializer.append(sparse(places))
    else:
        model = network(helper.make_node("Constant", [], ["w"], sparse_value=sparse(places)), PRODUCT)
    onnxruntime.InferenceSession(model.SerializeToString())
    onnx.save(model, tmp_path / "m.onnx")
    source = OnnxSource(tmp_path / "m.onnx", spec)
    x = np.random.default_rng(0).normal(size=(2, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(source.ask([x])[0], x.reshape(2, 64) @ WEIGHT, rtol=1e-6)
    assert child.take_in(tmp_path / "m.onnx", spec, tmp_path / "s", "model").model.graph is not None


def located(tensor, file):
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value=file)


def outside(sparse_tensor):
    located(sparse_tensor.values, "w.bin")


@pytest.mark.parametrize(
    ("tensor", "change", "words"),
    [
        (([640], (64, 10), [1]), None, "damaged: sparse tensor 'w'"),
        (([[0, 10]], (64, 10), [1]), None, "damaged: sparse tensor 'w'"),
        (([0], (1 << 30, 10), [1]), None, "2 GB"),
        (([-1], (64, 10), [1]), None, "damaged: sparse tensor 'w'.*below 0"),
        (([0], (64, 10), [1]), outside, "another file"),
    ],
)
def test_a_sparse_tensor_that_cannot_be_written_out_is_refused(tmp_path, tensor, change, words):
    model = network(PRODUCT)
    model.graph.sparse_initializer.append(sparse(*tensor))
    if change:
        change(model.graph.sparse_initializer[0])
    (tmp_path / "w.bin").write_bytes(np.ones(1, np.float32).tobytes())
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=words):
        load_onnx(tmp_path / "m.onnx")


def test_sparse_tensors_that_are_too_large_together_are_refused(tmp_path):
    model = network(PRODUCT)
    for number in range(3):
        tensor = sparse([0], (1 << 18, 1 << 10), [1])  # 1 GB each
        tensor.values.name = f"w{number}"
        model.graph.sparse_initializer.append(tensor)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="its sparse tensors take 3,221,225,472 bytes"):
        load_onnx(tmp_path / "m.onnx")


def test_external_data_of_a_function_are_companion_files(tmp_path):
    tensor = numpy_helper.from_array(np.ones(3, np.float32), "c")
    located(tensor, "../w.bin")
    body = [helper.make_node("Constant", [], ["c"], value=tensor), helper.make_node("Add", ["a", "c"], ["b"])]
    function = helper.make_function("own", "shift", ["a"], ["b"], body, [helper.make_opsetid("", 18)])
    model = network(helper.make_node("shift", ["flat"], ["y"], domain="own"))
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="outside the model's folder"):
        external_files(tmp_path / "m.onnx")


def without(node, field):
    node.ClearField(field)
    return node


IDENTITY = ("Identity", ["flat"], ["y"])
NORM = helper.make_node("BatchNormalization", ["flat", "w"], ["y"])


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([without(helper.make_node(*IDENTITY), "input")], "(Identity) has 0 inputs of at least 1"),
        ([without(helper.make_node(*IDENTITY), "output")], "(Identity) has 0 outputs of at least 1"),
        ([helper.make_node("Constant", [], [], value_float=1.0), helper.make_node(*IDENTITY)], "(Constant) has 0 outp"),
        ([helper.make_node("Constant", [], ["w"], value_float=1.0), NORM], "(BatchNormalization) has 2 inputs of at"),
        ([helper.make_node("MatMul", ["flat"], ["y"])], "(MatMul) has 1 inputs of at least 2"),
    ],
)
@pytest.mark.parametrize("where", ["graph", "branch"])
def test_a_node_without_its_operands_is_refused(tmp_path, spec, nodes, words, where):
    model = network(*nodes)
    if where == "branch":
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        branch = helper.make_graph(nodes, "b", [], [y])
        held = numpy_helper.from_array(np.array(True), "yes")
        model = network(
            helper.make_node("If", ["yes"], ["z"], then_branch=branch, else_branch=branch), held=[held], result="z"
        )
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError) as error:
        child.check(tmp_path / "m.onnx", spec)
    assert words in str(error.value)


@pytest.mark.parametrize("number", [0, 77])
@pytest.mark.parametrize("shape", [["n", 8, 8], []])
def test_an_input_of_no_known_type_is_refused(tmp_path, spec, number, shape):
    model = network(helper.make_node(*IDENTITY))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", number, shape))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedError, match="'x' is not a tensor of numbers"):
        OnnxSource(tmp_path / "m.onnx", spec)


def test_a_model_without_inputs_is_refused(tmp_path, spec):
    node = helper.make_node("Constant", [], ["y"], value_floats=[1.0, 2.0])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    model = helper.make_model(
        helper.make_graph([node], "g", [], [y]), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedError, match="takes no input"):
        OnnxSource(tmp_path / "m.onnx", spec)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.UNDEFINED, 77])
@pytest.mark.parametrize("way", ["initializer", "constant"])
def test_a_tensor_without_data_or_of_no_type_is_refused(tmp_path, spec, kind, way):
    tensor = TensorProto(name="w", data_type=kind, dims=[1])
    node = helper.make_node("Constant", [], ["w"])
    node.attribute.append(AttributeProto(name="value", type=AttributeProto.TENSOR, t=tensor))
    model = network(*([] if way == "initializer" else [node]), helper.make_node("Add", ["flat", "w"], ["y"]))
    model.graph.initializer.extend([tensor] if way == "initializer" else [])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="damaged: the tensor 'w'"):
        OnnxSource(tmp_path / "m.onnx", spec)


@pytest.mark.parametrize("change", [{"s": b"\xff\xfe"}, {"s": b"SAME\xff"}])
def test_an_attribute_that_is_no_text_is_refused(change):
    node = helper.make_node("Conv", ["x", "w"], ["y"], auto_pad="NOTSET")
    node.attribute[0].s = change["s"]
    held = [numpy_helper.from_array(np.ones((1, 8, 3), np.float32), "w")]
    with pytest.raises(InputError, match=r"attribute 'auto_pad' of node '' \(Conv\)"):
        import_onnx(network(node, held=held))


def test_a_type_of_no_number_known_is_refused():
    with pytest.raises(UnsupportedError, match="type 99"):
        import_onnx(network(helper.make_node("Cast", ["flat"], ["y"], to=99)))


def test_a_constant_beside_the_scores_is_left_out_whatever_its_length(tmp_path, spec):
    for length in (2, 3, 4):
        model = network(PRODUCT, held=[numpy_helper.from_array(WEIGHT, "w")])
        model.graph.initializer.append(numpy_helper.from_array(np.ones((length, 2), np.float32), "c"))
        model.graph.node.append(helper.make_node("Identity", ["c"], ["constant"]))
        model.graph.output.append(helper.make_tensor_value_info("constant", TensorProto.FLOAT, [length, 2]))
        onnx.save(model, tmp_path / "m.onnx")
        source = OnnxSource(tmp_path / "m.onnx", spec)
        assert [t.name for t in source.outputs] == ["y"]
