"""ONNX graphs of which ONNX Runtime's quantizer makes files that do not load, unless they are changed before."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from edgewright.artifact import Exported, ModelTask, Precision
from edgewright.data import DataSpec
from edgewright.errors import UnsupportedError
from edgewright.export import export, onnx_int8, onnx_quantizable, onnx_runtime
from edgewright.export.runs import outputs_of
from edgewright.intake import take_in
from edgewright.profile import Platform
from edgewright.store import Store

WIDTH, OUTPUTS = 8, 6
DECIBELS = 20  # of layers as small as these in 8 bits
DENSE = """
<ir_version: 8, opset_import: ["" : 15]>
g (float[n, 8] x) => (float[n, 6] y) {
    z = Gemm (x, weight, bias)
    y = Relu (z)
}
"""
CONVOLUTION = """
<ir_version: 8, opset_import: ["" : 11]>
g (float[n, 3, 8, 8] x) => (float[n, 6] y) {
    z = Conv <kernel_shape = [3, 3]> (x, weight, bias)
    r = Relu (z)
    m = GlobalAveragePool (r)
    y = Squeeze <axes = [2, 3]> (m)
}
"""
ENLARGED = """
<ir_version: 8, opset_import: ["" : 9]>
g (float[n, 3, 8, 8] x) => (float[n, 6, 12, 12] y) {
    z = Conv <kernel_shape = [3, 3]> (x, weight, bias)
    y = Upsample <mode = "linear"> (z, scales)
}
"""
RESIZED = """
<ir_version: 8, opset_import: ["" : 10]>
g (float[n, 3, 8, 8] x) => (float[n, 6, h, w] y) {
    z = Conv <kernel_shape = [3, 3]> (x, weight, bias)
    y = Resize <mode = "nearest"> (z, scales)
}
"""
NORMALIZED = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[n, 5, 8] x) => (float[n, 5, 6] y) {
    m = MatMul (x, weight)
    y = LayerNormalization <axis = -2> (m, scale, shift)
}
"""


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def model_of(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in weights.items())
    return model


def int8_of(model: onnx.ModelProto, rows: np.ndarray, folder: Path) -> Exported:
    onnx.save(model, folder / "m.onnx")
    answers = np.zeros(len(rows), np.float32)
    np.savez(folder / "d.npz", x_train=rows, y_train=answers, x_test=rows, y_test=answers)
    store = Store(folder / "store")
    taken = take_in(folder / "m.onnx", DataSpec(path=folder / "d.npz", task=ModelTask.NONE), store)
    assert taken.model.inside.path.read_bytes() == (folder / "m.onnx").read_bytes()  # ONNX to ONNX
    return export(taken.model, taken.dataset, Platform.EDGE_DEVICE, Precision.INT8, store)


def decibels(model: onnx.ModelProto, made: Exported, rows: np.ndarray) -> float:
    (expected,) = answers_of(model, rows)
    found = outputs_of(made.artifact.path, made.artifact.format, {"x": rows}, ["y"])["y"]
    return float(10 * np.log10(np.square(expected).sum() / np.square(found - expected).sum()))


def answers_of(model: onnx.ModelProto, rows: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": rows})


def scales_of(made: Exported) -> tuple[int, int]:
    """The opset, and how many scales the layer's weight has."""
    model = onnx.load(made.artifact.path)
    (scale,) = (t for t in model.graph.initializer if t.name == "weight_scale")
    return model.opset_import[0].version, int(np.prod(scale.dims))


@pytest.mark.parametrize("shape", [(1, OUTPUTS), (1, 1), (1,), ()])
def test_a_bias_that_is_equal_for_all_rows_has_a_scale_for_each_output(shape, tmp_path):
    """What magika holds: along the first axis there is only one number."""
    model = model_of(DENSE, weight=numbers(WIDTH, OUTPUTS), bias=numbers(*shape, seed=1))
    rows = numbers(40, WIDTH, seed=2)
    made = int8_of(model, rows, tmp_path)
    assert scales_of(made) == (15, OUTPUTS)
    assert decibels(model, made, rows) > DECIBELS


def test_a_bias_that_two_layers_read_fits_each(tmp_path):
    text = DENSE.replace("y = Relu (z)", "w = Gemm (x, wide, bias) t = Gemm (w, back, bias) y = Add (z, t)")
    wide = {"wide": numbers(WIDTH, 9, seed=3), "back": numbers(9, OUTPUTS, seed=4)}
    model = model_of(text, weight=numbers(WIDTH, OUTPUTS), bias=numbers(1, 1, seed=1), **wide)
    rows = numbers(40, WIDTH, seed=2)
    assert decibels(model, int8_of(model, rows, tmp_path), rows) > DECIBELS


def test_a_copy_of_a_bias_that_two_layers_read_takes_no_other_values_name(tmp_path):
    """The next number behind ``val_9`` is that of a value: what was quantized then was another graph."""
    text = DENSE.replace("z = Gemm (x, weight, bias)", "z = Gemm (x, weight, val_9) w = Gemm (x, other, val_9)")
    text = text.replace("y = Relu (z)", "val_90 = Transpose (w) t = Transpose (val_90) y = Add (z, t)")
    held = {"weight": numbers(WIDTH, OUTPUTS), "other": numbers(WIDTH, OUTPUTS, seed=3), "val_9": numbers(OUTPUTS)}
    model = model_of(text, **held)
    rows = numbers(40, WIDTH, seed=2)
    assert decibels(model, int8_of(model, rows, tmp_path), rows) > DECIBELS


@pytest.mark.parametrize("shape", [(OUTPUTS, 1), (OUTPUTS, OUTPUTS)])
def test_beside_a_bias_of_its_own_for_each_row_a_weight_has_one_scale(shape, tmp_path):
    """As many rows as outputs: the file would load, and give other answers."""
    text = DENSE.replace("(float[n, 8] x) => (float[n, 6] y)", "(float[6, 8] x) => (float[6, 6] y)")
    model = model_of(text, weight=numbers(WIDTH, OUTPUTS), bias=10 * numbers(*shape, seed=1))
    onnx.save(model, tmp_path / "m.onnx")
    onnx_int8.prepare(tmp_path / "m.onnx", "m", tmp_path / "prepared.onnx")
    assert onnx_int8._whole_weights(tmp_path / "prepared.onnx", narrow=True).keys() == {"weight"}


def test_a_normalization_over_two_axes_has_one_scale(tmp_path):
    model = model_of(
        NORMALIZED, weight=numbers(WIDTH, OUTPUTS), scale=1 + 0.1 * numbers(5, 6, seed=1), shift=numbers(5, 6, seed=2)
    )
    rows = numbers(40, 5, WIDTH, seed=3)
    assert decibels(model, int8_of(model, rows, tmp_path), rows) > DECIBELS


def test_an_opset_without_scales_for_channels_is_raised(tmp_path):
    """What RapidOCR's models hold: before opset 13, DequantizeLinear has no axis."""
    model = model_of(CONVOLUTION, weight=numbers(6, 3, 3, 3), bias=numbers(6, seed=1))
    rows = numbers(40, 3, 8, 8, seed=2)
    made = int8_of(model, rows, tmp_path)
    assert scales_of(made) == (13, 6)
    assert not any("scale" in note for note in made.notes)
    assert decibels(model, made, rows) > DECIBELS


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_what_was_enlarged_in_an_old_opset_is_placed_as_before(mode, tmp_path):
    scales = np.array([1, 1, 2, 2], np.float32)
    model = model_of(
        ENLARGED.replace("linear", mode), weight=numbers(6, 3, 3, 3), bias=numbers(6, seed=1), scales=scales
    )
    rows = numbers(40, 3, 8, 8, seed=2)
    raised = onnx_quantizable.with_channels(model)
    assert onnx_quantizable.opset_of(raised) == 13
    np.testing.assert_allclose(answers_of(raised, rows)[0], answers_of(model, rows)[0], rtol=1e-4, atol=1e-5)
    made = int8_of(model, rows, tmp_path)
    assert scales_of(made) == (13, 6)
    assert decibels(model, made, rows) > DECIBELS


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("by", [2.0, 1.5, 0.5, 0.7])
def test_what_was_resized_in_opset_10_is_placed_as_before(mode, by, tmp_path):
    text, scales = RESIZED.replace("nearest", mode), np.array([1, 1, by, by], np.float32)
    model = model_of(text, weight=numbers(6, 3, 3, 3), bias=numbers(6, seed=1), scales=scales)
    onnx.save(model, tmp_path / "m.onnx")
    onnx_int8.prepare(tmp_path / "m.onnx", "m", tmp_path / "prepared.onnx")
    rows = numbers(4, 3, 8, 8, seed=2)
    prepared = onnx.load(tmp_path / "prepared.onnx")
    np.testing.assert_allclose(answers_of(prepared, rows)[0], answers_of(model, rows)[0], rtol=1e-4, atol=1e-4)


def test_what_cannot_be_raised_exactly_has_one_scale_for_each_layer_and_says_so(tmp_path):
    """One side grows while the other one shrinks."""
    text, scales = RESIZED.replace("h, w", "12, 3"), np.array([1, 1, 2, 0.5], np.float32)
    model = model_of(text, weight=numbers(6, 3, 3, 3), bias=numbers(6, seed=1), scales=scales)
    rows = numbers(40, 3, 8, 8, seed=2)
    made = int8_of(model, rows, tmp_path)
    assert scales_of(made)[1] == 1
    assert any("one scale for each layer, not one for each channel: opset 1" in note for note in made.notes)
    assert decibels(model, made, rows) > DECIBELS


def test_branches_are_raised_too():
    text = """
    <ir_version: 8, opset_import: ["" : 11]>
    g (float[n, 3, 4] x) => (float[n, 12] y) {
        two = ReduceSum <keepdims = 0> (x)
        c = Greater (two, zero)
        y = If (c) <
            then_branch = a () => (float[n, 12] t) { s = Softmax <axis = 1> (x) t = Flatten (s) },
            else_branch = b () => (float[n, 12] e) { u = Unsqueeze <axes = [1]> (x) e = Flatten (u) }
        >
    }
    """
    model = model_of(text, zero=np.zeros((), np.float32))
    raised = onnx_quantizable.with_channels(model)
    assert onnx_quantizable.opset_of(raised) == 13
    for rows in (np.abs(numbers(2, 3, 4)), -np.abs(numbers(2, 3, 4))):
        np.testing.assert_allclose(answers_of(raised, rows)[0], answers_of(model, rows)[0], rtol=1e-6)


def test_what_the_runtime_does_not_take_is_refused_by_the_operator():
    text = """
    <ir_version: 8, opset_import: ["" : 15]>
    g (float[n, 8] x) => (float[n, 6] y) {
        bias = DequantizeLinear <axis = 0> (stored, scale)
        y = Gemm (x, weight, bias)
    }
    """
    whole, scale = np.ones((1, OUTPUTS), np.int32), np.ones(OUTPUTS, np.float32)
    model = model_of(text, weight=numbers(WIDTH, OUTPUTS), stored=whole, scale=scale)
    for node, name in zip(model.graph.node, ("bias_DequantizeLinear", "dense"), strict=True):
        node.name = name
    says = r"^m: ONNX Runtime cannot run int8 of this graph: Gemm \(node 'dense'\): .*; float32 works$"
    with pytest.raises(UnsupportedError, match=says) as refused:
        onnx_int8._prove(model, "m", [{"x": numbers(1, WIDTH)}])
    assert "\n" not in str(refused.value)
    assert "ONNXRuntimeError" not in str(refused.value)
    assert "PrepareForQDQ" not in str(refused.value)
    model.opset_import[0].version = 11
    with pytest.raises(UnsupportedError, match=r"'dense'\): Unrecognized attribute: axis") as refused:
        onnx_int8._prove(model, "m", [{"x": numbers(1, WIDTH)}])


def test_on_arm_levels_lie_where_the_values_are(tmp_path):
    """Behind a ReLU no value is below zero: its zero point is the least level, and it needs no step of its own."""
    model = model_of(DENSE, weight=numbers(WIDTH, OUTPUTS), bias=numbers(OUTPUTS, seed=1))
    graph = onnx.load(int8_of(model, numbers(40, WIDTH, seed=2), tmp_path).artifact.path).graph
    held = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    (last,) = (node for node in graph.node if node.output[0] == graph.output[0].name)
    assert held[last.input[2]] == np.int8(-128)
    assert "Relu" not in {node.op_type for node in graph.node}


def test_a_dense_layer_that_is_kept_stays_float_in_dynamic_int8(tmp_path):
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[n, 7] row) => (float[n, 5] y) {
        a = Gemm <transB = 1> (row, dense, bias)
        y = Gemm (a, second, bias)
    }"""
    weights = {"dense": numbers(5, 7), "second": numbers(5, 5, seed=1), "bias": numbers(5, seed=2)}
    onnx.save(model_of(text, **weights), tmp_path / "model.onnx")
    onnx_runtime.quantize_dynamically(tmp_path / "model.onnx", "model", tmp_path / "dynamic.onnx", float_values=["a"])
    made = onnx.load(tmp_path / "dynamic.onnx").graph
    assert [node.op_type for node in made.node].count("MatMulInteger") == 1
    assert {t.data_type for t in made.initializer if t.name.startswith("dense")} == {onnx.TensorProto.FLOAT}
