"""Inputs and outputs whose names are words of Core ML's program text."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgewright.artifact import ModelTask, Precision
from edgewright.data import DataSpec
from edgewright.export import export
from edgewright.intake import take_in
from edgewright.profile import Platform
from edgewright.store import Store

pytestmark = pytest.mark.filterwarnings("ignore")

NET = """<ir_version: 8, opset_import: ["" : 18]>
net (float[rows, 3] state, float[rows, 3] list) => (float[rows, 3] tensor) { tensor = Mul (state, list) }"""


def test_a_name_that_core_ml_reserves_gets_an_underscore(tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model(NET), tmp_path / "m.onnx")
    rows = np.random.default_rng(0).normal(size=(2, 40, 3)).astype(np.float32)
    np.savez(tmp_path / "d.npz", **{"x.state": rows[0], "x.list": rows[1]})
    store = Store(tmp_path / "store")
    intake = take_in(tmp_path / "m.onnx", DataSpec(path=tmp_path / "d.npz", task=ModelTask.NONE), store)
    made = export(intake.model, intake.dataset, Platform.IOS, Precision.FLOAT32, store)
    assert [tensor.name for tensor in (*made.inputs, *made.outputs)] == ["state_", "list_", "tensor_"]
