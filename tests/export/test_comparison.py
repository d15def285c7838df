"""Files that anybody made, against their model: what they may hold that ours do not."""

import copy
from unittest import mock

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper

from edgewright.artifact import Format
from edgewright.errors import ConversionError, InputError, UnsupportedError
from edgewright.export import litert_recipes, tflite
from edgewright.export.declaration import File
from edgewright.export.diagnosis import onnx_computation
from edgewright.export.diagnosis.comparison import compare
from edgewright.export.diagnosis.finding import computation_of
from edgewright.export.diagnosis.values import difference
from edgewright.export.runs import outputs_of

ROWS = 40


def saved(folder, nodes, *, inputs=("x",), batch="batch", name="model.onnx"):
    """Of inputs and the one output ``y`` (batch, 4)."""
    shape = [batch, 4]
    ends = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in side] for side in (inputs, ["y"])]
    graph = helper.make_graph(nodes, "g", *ends)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / name)
    return File(folder / name, Format.ONNX)


def compared(folder, reference, exported, rows, *, limits=None, min_snr_db=20.0):
    np.savez(folder / "rows.npz", **{"validation.x.x": rows})
    return compare(
        reference=reference,
        exported=exported,
        dataset=folder / "rows.npz",
        inputs=["x"],
        outputs=["y"],
        limits={"float32": 1e-4} if limits is None else limits,
        min_snr_db=min_snr_db,
    )


def rows(count=ROWS):
    return np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)


LOGARITHM = [helper.make_node("Relu", ["x"], ["positive"]), helper.make_node("Log", ["positive"], ["y"])]


@pytest.mark.parametrize("limits", [{"float32": 1e-4}, {}], ids=["by magnitude", "by power"])
def test_the_same_infinities_agree(tmp_path, limits):
    file = saved(tmp_path, LOGARITHM)
    same = compared(tmp_path, file, file, rows(), limits=limits)
    assert same.holds
    assert same.outputs["y"] == "off by 0 of its largest magnitude at most, inf dB in all rows"
    shifted = [LOGARITHM[0], helper.make_node("Add", ["positive", "positive"], ["p"])]
    finite = [*shifted, helper.make_node("Exp", ["p"], ["y"])]
    other = compared(tmp_path, file, saved(tmp_path, finite, name="other.onnx"), rows(), limits=limits)
    assert not other.holds
    assert other.outputs["y"] == "NaN, infinite or of another shape"


@pytest.mark.parametrize("limits", [{"float32": 1e-4}, {}], ids=["by magnitude", "by power"])
def test_a_row_of_zeros_is_held_to_the_magnitude_of_all_rows(tmp_path, limits):
    file = saved(tmp_path, [helper.make_node("Relu", ["x"], ["y"])])
    small = helper.make_node("Constant", [], ["small"], value=helper.make_tensor("c", TensorProto.FLOAT, [], [1e-6]))
    nearly = [helper.make_node("Relu", ["x"], ["r"]), small, helper.make_node("Add", ["r", "small"], ["y"])]
    given = rows()
    given[3] = -1
    assert compared(tmp_path, file, saved(tmp_path, nearly, name="nearly.onnx"), given, limits=limits).holds


@pytest.mark.parametrize("count", [5, ROWS])
def test_rows_fill_a_fixed_batch(tmp_path, count):
    file = saved(tmp_path, [helper.make_node("Relu", ["x"], ["y"])], batch=16)
    found = compared(tmp_path, file, file, rows(count))
    assert (found.holds, found.rows) == (True, count)
    assert outputs_of(file.path, file.form, {"x": rows(count)}, ["y"])["y"].shape == (count, 4)


def test_a_file_with_other_inputs_is_refused_with_both_counts(tmp_path):
    one, two = ["x"], ["x", "z"]
    add = saved(tmp_path, [helper.make_node("Add", two, ["y"])], inputs=two)
    message = r"model.onnx: the file takes 2 inputs \(x, z\), the model 1 \(x\)"
    with pytest.raises(InputError, match=message):
        computation_of(add.path, add.form, one, ["y"])
    relu = saved(tmp_path, [helper.make_node("Relu", one, ["y"])], name="relu.onnx")
    with pytest.raises(InputError, match="takes 1 inputs"):
        computation_of(relu.path, relu.form, two, ["y"])
    with pytest.raises(InputError, match="takes 1 inputs"):
        computation_of(unnamed(tmp_path), Format.TFLITE, two, ["y"])


def unnamed(folder):
    """A stripped `.tflite`: y = Relu(x), and no tensor has a name."""
    model, graph, relu, code = schema.ModelT(), schema.SubGraphT(), schema.OperatorT(), schema.OperatorCodeT()
    graph.tensors = [schema.TensorT(), schema.TensorT()]
    for tensor in graph.tensors:
        tensor.shape, tensor.type, tensor.buffer = [1, 4], schema.TensorType.FLOAT32, 0
    relu.opcodeIndex, relu.inputs, relu.outputs = 0, [0], [1]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RELU
    graph.operators, graph.inputs, graph.outputs = [relu], [0], [1]
    model.version, model.subgraphs, model.operatorCodes, model.buffers = 3, [graph], [code], [schema.BufferT()]
    tflite.save(model, folder / "stripped.tflite")
    return folder / "stripped.tflite"


def test_tensors_without_names_are_numbered(tmp_path):
    reference = saved(tmp_path, [helper.make_node("Relu", ["x"], ["y"])])
    path = unnamed(tmp_path)
    assert compared(tmp_path, reference, File(path, Format.TFLITE), rows()).holds
    declared = tflite.tensors(path)
    assert [spec.name for spec in (*declared.inputs, *declared.outputs)] == ["tensor_0", "tensor_1"]


@pytest.mark.parametrize(("one", "other"), [(1.0, 1e200), (1e200, 1.0), (1e-200, 1.0), (1e308, -1e308), (1.0, 1e-200)])
def test_numbers_of_any_size_are_compared(one, other):
    found = difference(np.array([one, one]), np.array([other, other]))
    assert found.snr_db < 0.1
    assert found.largest >= 1


def test_nodes_in_reverse_are_ordered_at_once():
    count = 3000
    nodes = [helper.make_node("Relu", [f"v{n}"], [f"v{n + 1}"], name=f"n{n}") for n in range(count)]
    ends = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, [1])] for n in ("v0", f"v{count}")]
    graph = helper.make_graph(nodes[::-1], "g", *ends)
    with mock.patch.object(onnx_computation, "_read_by", wraps=onnx_computation._read_by) as looked_at:
        assert [node.name for node in onnx_computation._in_order(graph)] == [node.name for node in nodes]
    assert looked_at.call_count == count
    circle = helper.make_graph([helper.make_node("Add", ["v0", "v2"], ["v1"], name="first"), nodes[1]], "g", *ends)
    with pytest.raises(ConversionError, match="node 'first'"):
        onnx_computation._in_order(circle)


def test_operators_that_give_nothing_are_left_out_of_recipes(tmp_path):
    path = unnamed(tmp_path)
    model = tflite.load(path)
    call, code = schema.OperatorT(), schema.OperatorCodeT()
    call.opcodeIndex = 1
    code.builtinCode, code.deprecatedBuiltinCode = schema.BuiltinOperator.CALL_ONCE, 127
    model.operatorCodes.append(code)
    # A body that no signature names, as the one that sets the variables of a stateful model.
    body = copy.deepcopy(model.subgraphs[0])
    model.subgraphs.append(body)
    for graph in model.subgraphs:
        graph.operators.insert(0, call)
    tflite.save(model, path)
    work = mock.Mock()
    litert_recipes.keep_between_layers_float(work, path)
    litert_recipes.keep_unsafe_float(work, path)
    litert_recipes.keep_values_float(work, path, frozenset({"tensor_1"}), masks=True)
    assert work.update_quantization_recipe.call_count > 2
    with pytest.raises(UnsupportedError, match="'CALL_ONCE' gives no tensor"):
        computation_of(path, Format.TFLITE, ["x"], ["y"])
