"""ONNX and Keras sources with several outputs; what has no numbers or no rows is left out and said so."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from edgewright.data import DataSpec
from edgewright.errors import InputError, UnsupportedError
from edgewright.intake import child, torch_graph
from edgewright.intake.keras_answers import answers_of, flat, outputs_of
from edgewright_runtime.bundle.manifest import TensorSpec

pytestmark = pytest.mark.filterwarnings("ignore")
RANDOM = np.random.default_rng(0)


def model_of(text, **constants):
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]>\n{text}')
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return model


def taken(model, data, folder):
    onnx.save(model, folder / "m.onnx")
    spec = DataSpec(path=data)
    return child.take_in(folder / "m.onnx", spec, folder / "s", "model")


HEADS = """
heads (float[rows, 8, 8] x) => (float[rows, 64] feature_map, float[rows, 10] scores, int64[rows] label, float[4] mean) {
    flat = Flatten (x)
    feature_map = Relu (flat)
    scores = MatMul (flat, weight)
    label = ArgMax <axis = 1, keepdims = 0> (scores)
    mean = Identity (constant)
}"""


def test_every_output_of_numbers_with_rows_is_kept(tmp_path, digits_npz):
    weight = RANDOM.normal(size=(64, 10)).astype(np.float32)
    intake = taken(model_of(HEADS, weight=weight, constant=np.ones(4, np.float32)), digits_npz, tmp_path)
    assert [(o.name, o.shape) for o in intake.model.outputs] == [("feature_map", (-1, 64)), ("scores", (-1, 10))]
    assert any("left out: label" in note for note in intake.model.notes)
    assert any("rows on their first axis were left out: mean" in note for note in intake.model.notes)
    arrays = np.load(intake.dataset.artifact.path)
    graph = torch_graph.load(intake.model.graph.path)
    with torch.no_grad():
        found = graph(torch.from_numpy(arrays["test.x.x"]))
    for name, values in zip(("feature_map", "scores"), found, strict=True):
        np.testing.assert_allclose(values.numpy(), arrays[f"test.reference.{name}"], rtol=1e-4, atol=1e-3)
    # The classes are those of the output that has as many scores as there are, not of the first.
    np.testing.assert_array_equal(arrays["test.predicted"], arrays["test.reference.scores"].argmax(1))
    assert len(intake.model.labels) == 10


def test_what_has_as_many_values_as_rows_were_asked_is_not_of_rows(tmp_path, digits_npz):
    """The model is asked with three rows; a constant of three, and what grows with the rows twice, have no row each."""
    text = """
    net (float[rows, 8, 8] x) => (float[rows, 10] scores, float[3] mean, float[rows, rows] alike) {
        flat = Flatten (x)
        scores = MatMul (flat, weight)
        mean = Identity (constant)
        turned = Transpose (scores)
        alike = MatMul (scores, turned)
    }"""
    weight = RANDOM.normal(size=(64, 10)).astype(np.float32)
    intake = taken(model_of(text, weight=weight, constant=np.ones(3, np.float32)), digits_npz, tmp_path)
    assert [(o.name, o.shape) for o in intake.model.outputs] == [("scores", (-1, 10))]
    assert any("rows on their first axis were left out: mean, alike" in note for note in intake.model.notes)


class Stub:
    """A loaded model of one input; ``asked`` answers as TensorFlow's function does."""

    output_names = ()

    def __init__(self, asked, batch=-1):
        self.asked, self.inputs = asked, (TensorSpec("x", (batch, 4), "float32"),)


def test_keras_outputs_of_three_values_are_not_of_rows():
    def asked(x):
        return {"alike": x @ x.T, "mean": np.ones(3, np.float32), "scores": x[:, :1]}

    outputs, notes = outputs_of(Stub(asked))
    assert [(t.name, t.shape, place) for t, place in outputs] == [("scores", (-1, 1), 2)]
    assert "left out: alike float32(3, 3); mean float32(3,)" in notes[0]
    assert [a.shape for a in answers_of(Stub(asked), outputs, [np.zeros((10, 4), np.float32)])] == [(10, 1)]


def test_whole_numbers_are_kept_where_there_are_no_others(tmp_path, digits_npz):
    text = """
    net (float[rows, 8, 8] x) => (int64[rows, 10] y, string[rows] name) {
        flat = Flatten (x)
        scores = MatMul (flat, weight)
        y = Cast <to = 7> (scores)
        name = Cast <to = 8> (scores)
    }"""
    weight = RANDOM.integers(-9, 9, size=(64, 10)).astype(np.float32)
    intake = taken(model_of(text, weight=weight), digits_npz, tmp_path)
    assert [(o.name, o.dtype) for o in intake.model.outputs] == [("y", "int64")]


def test_a_sequence_alone_is_refused(tmp_path, digits_npz):
    text = """
    net (float[rows, 8, 8] x) => (seq(float[rows, 8]) y) { y = SplitToSequence <axis = 1, keepdims = 0> (x) }"""
    with pytest.raises(UnsupportedError, match="outputs y: none is a tensor of numbers"):
        taken(model_of(text), digits_npz, tmp_path)


def test_no_output_with_rows_is_refused(tmp_path, digits_npz):
    text = "net (float[rows, 8, 8] x) => (float[8] y) { y = ReduceMean <keepdims = 0> (x, axes) }"
    with pytest.raises(UnsupportedError, match=r"no output has the rows on its first axis \(y \(8,\) of 3 rows\)"):
        taken(model_of(text, axes=np.array([0, 1])), digits_npz, tmp_path)


def test_a_batch_that_is_free_in_name_only_is_taken_as_one_and_freed(tmp_path, digits_npz):
    """An exporter wrote the example's size of 1 into a Reshape; the file then declares any number of rows."""
    text = """
    net (float[rows, 8, 8] x) => (float[rows, 10] y) {
        flat = Reshape (x, shape)
        y = MatMul (flat, weight)
    }"""
    weight = RANDOM.normal(size=(64, 10)).astype(np.float32)
    intake = taken(model_of(text, shape=np.array([1, 64]), weight=weight), digits_npz, tmp_path)
    assert any("only one row at a time is answered" in note for note in intake.model.notes)
    assert intake.model.inputs[0].shape == (-1, 8, 8)
    assert any("was freed" in note for note in intake.model.notes)
    assert intake.model.graph is not None


def test_rows_that_the_model_refuses_are_one_clear_line(tmp_path):
    text = """
    net (int64[rows, 3] ids) => (float[rows] y) {
        taken = Gather (table, ids)
        y = ReduceSum <keepdims = 0> (taken, axes)
    }"""
    np.savez(tmp_path / "d.npz", x=np.full((40, 3), 9), y=np.full(40, 0.5))
    with pytest.raises(InputError, match="the model refuses its own data: ONNX Runtime") as refusal:
        taken(model_of(text, table=np.ones((5, 4), np.float32), axes=np.array([1, 2])), tmp_path / "d.npz", tmp_path)
    assert "\n" not in str(refusal.value)


def test_keras_outputs_in_an_order_that_depends_on_names_alone():
    assert list(flat({"b": 2, "a": [1, {"z": 3}]})) == [("a", 1), ("a_z", 3), ("b", 2)]
    assert list(flat([5, (6, 7)])) == [("", 5), ("", 6), ("", 7)]


def test_of_outputs_of_one_shape_the_one_that_is_measured_is_told(tmp_path, digits_npz):
    text = """
    twins (float[rows, 8, 8] x) => (float[rows, 10] first, float[rows, 10] second) {
        flat = Flatten (x)
        first = MatMul (flat, weight)
        second = Neg (first)
    }"""
    weight = RANDOM.normal(size=(64, 10)).astype(np.float32)
    intake = taken(model_of(text, weight=weight), digits_npz, tmp_path)
    said = "accuracy is that of the output 'first', the first of its shape; 'second' has the same one"
    assert any(said in note for note in intake.dataset.notes)
