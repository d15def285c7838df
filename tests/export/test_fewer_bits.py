"""Graphs that a platform's quantizer trips over: they work all the same, or are refused in one line that says why."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx, nn

from edgewright.artifact import Dataset, Format, ImportedModel, ModelTask, Precision
from edgewright.errors import UnsupportedError
from edgewright.export import export, litert, onnx_runtime, tflite
from edgewright.export.mil_evaluator import evaluate
from edgewright.intake import torch_graph
from edgewright.profile import Platform
from edgewright.store import Store
from edgewright_runtime.backends import load, run_rows
from edgewright_runtime.bundle.manifest import TensorSpec

# The quantizer's calibration opens the interpreter as for debugging, which says so.
pytestmark = pytest.mark.filterwarnings("ignore:.*experimental_preserve_all_tensors")

FEATURES = 8


class Rest(nn.Module):
    """A layer, and what the test is about behind it."""

    def __init__(self, outputs: int, step: Any) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.dense, self.step = nn.Linear(FEATURES, outputs), step

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.step(self.dense(x))


class Shares(nn.Module):
    """A constant column beside the values, as of polynomial features; then each one's part of the sum of all.

    For some rows that sum is hardly more than nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("one", torch.full((1, 1), 1e-3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        beside = torch.cat([self.one, torch.relu(x)], 1)
        return torch.div(beside, torch.sum(beside, 1, keepdim=True))


class Powers(nn.Module):
    """Beyond 65,504 on the way, the greatest number that half precision has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        large = torch.mul(x, 1000.0)
        return torch.sqrt(torch.add(torch.mul(large, large), 1.0))


class Case:
    def __init__(self, folder: Path, step: nn.Module, width: int, outputs: int) -> None:
        self.store = Store(folder / "store")
        source = Rest(width, step).eval()
        torch_graph.save(fx.symbolic_trace(source), folder / "source.graph")
        graph = self.store.put(folder / "source.graph", Format.TORCH_GRAPH, parent="its own")
        self.rows = np.random.default_rng(5).normal(size=(60, FEATURES)).astype(np.float32)
        self.model = ImportedModel(
            name="source",
            source=graph,
            onnx=graph,
            graph=graph,
            inputs=(TensorSpec("x", (1, FEATURES), "float32"),),
            outputs=(TensorSpec("y", (1, outputs), "float32"),),
            task=ModelTask.REGRESSION,
        )
        np.savez(folder / "data.npz", **{"calibration.x.x": self.rows[:40]})
        data = self.store.put(folder / "data.npz", Format.DATASET)
        self.dataset = Dataset(artifact=data, calibration_rows=40, validation_rows=0, test_rows=0)

    def export(self, platform: Platform, precision: Precision) -> Path:
        return export(self.model, self.dataset, platform, precision, self.store).artifact.path


def test_division_stays_float_in_an_android_int8_file(tmp_path):
    """The interpreter's int8 division gives up where the divisor rounds to zero: some row of a user would end it.

    And a constant that takes over the range of what it stands beside is quantized.
    """
    case = Case(tmp_path, Shares(), 3, 4)
    path, rows = tmp_path / "int8.tflite", case.dataset.artifact.path
    source = case.export(Platform.ANDROID, Precision.FLOAT32)
    litert.quantize(source=source, name="x", precision=Precision.INT8, path=path, labels=[], dataset=rows)
    dtypes = dtypes_of_operators(path)
    assert [dtypes[kind] for kind in ("FULLY_CONNECTED", "CONCATENATION", "DIV")] == ["int8", "int8", "float32"]
    assert run_rows(load(path, "tflite"), {"x": case.rows})["y"].shape == (60, 4)  # every row is answered


def test_what_8_bits_make_of_a_divisor_near_zero_is_mended(tmp_path):
    """Rounded to zero it would give NaN on some rows: what makes it stays float32 too, and the result says so."""
    case = Case(tmp_path, Shares(), 3, 4)
    exported = export(case.model, case.dataset, Platform.ANDROID, Precision.INT8, case.store)
    dtypes = dtypes_of_operators(exported.artifact.path)
    assert [dtypes[kind] for kind in ("FULLY_CONNECTED", "SUM", "DIV")] == ["int8", "float32", "float32"]
    assert any("layer 'div' (DIV and" in note and "stays float32" in note for note in exported.notes)
    assert np.isfinite(run_rows(load(exported.artifact.path, "tflite"), {"x": case.rows})["y"]).all()


def dtypes_of_operators(path: Path) -> dict[str, str]:
    """{kind: dtype of the first operand}."""
    model = tflite.load(path)
    tensors = model.subgraphs[0].tensors
    return {
        tflite.operator_name(model, operator): tflite.DTYPES[tensors[operator.inputs[0]].type]
        for operator in model.subgraphs[0].operators
    }


def test_what_half_precision_cannot_hold_stays_float32_and_is_said(tmp_path):
    case = Case(tmp_path, Powers(), 3, 3)
    exported = export(case.model, case.dataset, Platform.IOS, Precision.FLOAT16, case.store)
    (note,) = (note for note in exported.notes if "layer 'sqrt'" in note)
    assert "stays float32: in float16, from the model's own values its result is NaN" in note
    (answers,) = evaluate(exported.artifact.path, {"x": case.rows}).values()
    with torch.no_grad():
        expected = torch_graph.load(case.model.graph.path)(torch.from_numpy(case.rows)).numpy()
    np.testing.assert_allclose(answers, expected, rtol=2**-10, atol=0.5)  # 1000 times what float16 rounds


def test_a_graph_that_the_quantizer_fails_on_is_refused_by_name(digits, tmp_path, monkeypatch):
    from ai_edge_quantizer import quantizer

    path = digits.exported(Platform.ANDROID, Precision.FLOAT32).artifact.path

    def fail(*_: object, **__: object) -> None:
        raise TypeError("can only concatenate str")

    monkeypatch.setattr(quantizer.Quantizer, "quantize", fail)
    with pytest.raises(UnsupportedError, match="cannot make float16 of this graph: can only concatenate str; float32"):
        litert.quantize(source=path, name="x", precision=Precision.FLOAT16, path=tmp_path / "x.tflite", labels=[])
    assert not (tmp_path / "x.tflite").exists()


SEQUENCE_FIRST = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[n, 8, 8] x) => (float[8, n, 6] y) {
    rows = Transpose <perm = [1, 0, 2]> (x)
    y = MatMul (rows, weight)
}
"""


def test_half_precision_loads_where_the_input_is_transposed_first(tmp_path):
    """As recurrent networks do; cast before it, ONNX Runtime crashes as it loads the file."""
    import onnx
    import onnxruntime

    model = onnx.parser.parse_model(SEQUENCE_FIRST)
    weight = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "weight"))
    onnx.save(model, tmp_path / "source.onnx")
    onnx_runtime.to_float16(str(tmp_path / "source.onnx"), "source", str(tmp_path / "half.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "half.onnx"), providers=["CPUExecutionProvider"])
    rows = np.random.default_rng(1).normal(size=(3, 8, 8)).astype(np.float32)
    expected = rows.transpose(1, 0, 2) @ weight
    assert np.abs(session.run(None, {"x": rows})[0] - expected).max() < 1e-2 * np.abs(expected).max()
