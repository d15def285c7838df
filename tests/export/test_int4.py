"""Weights in 4 bits, as each platform's runtime has them; the file says so, and answers as the source does."""

import numpy as np
import onnx
import pytest

from edgewright.artifact import Format, Precision
from edgewright.errors import UnsupportedError
from edgewright.export import export, mlpackage, tflite
from edgewright.export.mil_evaluator import evaluate
from edgewright.export.stored import describe
from edgewright.profile import Platform
from edgewright_runtime.backends import load, run_rows

pytestmark = pytest.mark.filterwarnings("ignore:.*torchvision.*")


def answers(artifact, rows):
    if artifact.format is Format.MLPACKAGE:
        return evaluate(artifact.path, {"image": rows})["probabilities"]
    return run_rows(load(artifact.path, artifact.format.value), {"image": rows})["probabilities"]


@pytest.mark.parametrize("platform", Platform)
def test_int4_answers_as_its_source_and_is_smaller(digits, platform):
    exported = digits.exported(platform, Precision.INT4)
    assert np.abs(answers(exported.artifact, digits.rows) - digits.answers).max() < 0.15
    assert [(s.name, s.dtype) for s in (*exported.inputs, *exported.outputs)] == [
        ("image", "float32"),
        ("probabilities", "float32"),
    ]
    assert exported.artifact.size_bytes < digits.exported(platform, Precision.FLOAT32).artifact.size_bytes


def test_android_stores_dense_weights_in_4_bits(digits):
    model = tflite.load(digits.exported(Platform.ANDROID, Precision.INT4).artifact.path)
    held = {
        tflite.operator_name(model, operator): model.subgraphs[0].tensors[operator.inputs[1]]
        for operator in model.subgraphs[0].operators
        if len(operator.inputs) == 3
    }
    assert {kind: tflite.DTYPES[tensor.type] for kind, tensor in held.items()} == {
        "DEPTHWISE_CONV_2D": "float32",  # of one channel; LiteRT has no such kernel for 4 bits
        "FULLY_CONNECTED": "int4",
    }
    assert len(model.buffers[held["FULLY_CONNECTED"].buffer].data) == 128 * 10 // 2


def test_ios_stores_a_palette_of_16_values(digits):
    path = digits.exported(Platform.IOS, Precision.INT4).artifact.path
    assert mlpackage.operators(path)["constexpr_lut_to_dense"] == 1
    palette = {w.dtype: w for w in describe(path).weights}["palette (float16, uint8)"]
    assert palette.elements == 1280
    assert palette.bytes == 1280 // 2 + 16 * 2 + 2 * 4  # indices, palette, shape


def test_edge_device_multiplies_4_bit_blocks_and_says_which_runtime_can(digits):
    exported = digits.exported(Platform.EDGE_DEVICE, Precision.INT4)
    node = next(n for n in onnx.load(exported.artifact.path).graph.node if n.op_type == "MatMulNBits")
    given = {a.name: a.i for a in node.attribute}
    assert (given["bits"], given["block_size"], given["K"], given["N"]) == (4, 32, 128, 10)
    assert tuple(int(n) for n in exported.runtime_floor.split(".")) >= (1, 17)


def test_without_a_dense_layer_an_edge_device_has_no_int4(digits, tmp_path):
    model = onnx.load(digits.model.onnx.path)
    kept = next(i for i, node in enumerate(model.graph.node) if node.op_type == "Conv")
    del model.graph.node[kept + 1 :]
    del model.graph.output[:]
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(model.graph.node[kept].output[0], onnx.TensorProto.FLOAT, [None] * 4)
    )
    onnx.save(model, tmp_path / "conv.onnx")
    saved = digits.store.put(tmp_path / "conv.onnx", Format.ONNX)
    convolution = digits.model.model_copy(update={"onnx": saved, "graph": None, "graph_refusal": "a test"})
    with pytest.raises(UnsupportedError, match="int4 has no benefit here: it holds no dense layer"):
        export(convolution, digits.dataset, Platform.EDGE_DEVICE, Precision.INT4, digits.store)
