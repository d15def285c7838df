"""ONNX as the first exporters wrote it: before IR version 4, whose values stand among the inputs, and normalized across
channels.
"""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from edgewright.artifact import ModelTask, Precision
from edgewright.data import DataSpec
from edgewright.export import export
from edgewright.export.runs import outputs_of
from edgewright.intake import take_in
from edgewright.profile import Platform
from edgewright.store import Store

# Every value with a name of its own is an input, too; one weight is made of its shape, as in the light_ files of ONNX.
TEXT = """
<ir_version: 3, opset_import: ["" : 9]>
g (float[1, 3, 8, 8] x, float[6, 3, 3, 3] filters, int64[1] bias_shape, float[384, 5] dense) => (float[1, 5] y) {
    bias = ConstantOfShape <value = float[1] {0.25}> (bias_shape)
    c = Conv <pads = [1, 1, 1, 1]> (x, filters, bias)
    r = Relu (c)
    n = LRN <size = 5, alpha = 0.5, beta = 0.75, bias = 2.0> (r)
    f = Flatten (n)
    y = MatMul (f, dense)
}
"""


def model() -> onnx.ModelProto:
    chance = np.random.default_rng(0)
    made = onnx.parser.parse_model(TEXT)
    weights = {
        "filters": chance.normal(size=(6, 3, 3, 3)).astype(np.float32) / 3,
        "bias_shape": np.array([6], np.int64),
        "dense": chance.normal(size=(384, 5)).astype(np.float32) / 20,
    }
    made.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    return made


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.INT8])
@pytest.mark.parametrize("platform", Platform)
def test_a_file_of_the_first_exporters_answers_on_every_platform(
    platform: Platform, precision: Precision, tmp_path: Path
) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    rows = np.random.default_rng(1).normal(size=(40, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x_train=rows, y_train=np.zeros(40), x_test=rows, y_test=np.zeros(40))
    store = Store(tmp_path / "store")

    taken = take_in(tmp_path / "m.onnx", DataSpec(path=tmp_path / "d.npz", task=ModelTask.NONE), store)
    made = export(taken.model, taken.dataset, platform, precision, store)

    assert [spec.name for spec in made.inputs] == ["x"]
    (name,) = (spec.name for spec in made.outputs)
    found = outputs_of(made.artifact.path, made.artifact.format, {"x": rows}, [name])[name]
    session = onnxruntime.InferenceSession(model().SerializeToString(), providers=["CPUExecutionProvider"])
    expected = np.concatenate([session.run(None, {"x": row[None]})[0] for row in rows])
    assert np.abs(found - expected).max() <= np.abs(expected).max() * (1e-5 if precision == "float32" else 0.05)
