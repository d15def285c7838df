import sys
from pathlib import Path

import numpy as np
import pytest

from edgewright.package import Bundle
from edgewright_runtime.backends import load, run_rows
from edgewright_runtime.backends.litert import _by_number
from edgewright_runtime.errors import BackendUnavailableError, InputRejectedError, IntegrityError
from tests.bundles import onnx_file, softmax


def test_onnx_runs_a_batch_at_once(tmp_path: Path) -> None:
    weights = onnx_file(tmp_path / "m.onnx", 4)
    backend = load(tmp_path / "m.onnx", "onnx")
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)

    scores = run_rows(backend, {"x": x})["scores"]

    assert backend.inputs[0].shape == (-1, 4)
    np.testing.assert_allclose(scores, softmax(x @ weights), atol=1e-6)


def test_names_given_are_used_instead_of_the_files_own(tmp_path: Path) -> None:
    onnx_file(tmp_path / "m.onnx", 4)

    backend = load(tmp_path / "m.onnx", "onnx", input_names=["features"], output_names=["answer"])

    assert list(backend.run({"features": np.zeros((1, 4), np.float32)})) == ["answer"]
    with pytest.raises(IntegrityError, match="has 1 inputs"):
        load(tmp_path / "m.onnx", "onnx", input_names=["a", "b"])


def test_litert_runs_row_by_row_where_the_batch_is_fixed(image_bundle: Bundle) -> None:
    path = image_bundle.artifact.path / "digits_cnn.tflite"
    backend = load(path, "tflite", input_names=["x"], output_names=["scores"])
    x = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)

    together = run_rows(backend, {"x": x})["scores"]

    assert backend.name == "litert"
    assert backend.inputs[0].shape == (1, 1, 8, 8)
    for i in range(3):
        np.testing.assert_array_equal(together[i : i + 1], backend.run({"x": x[i : i + 1]})["scores"])


def test_numbered_signature_names_are_ordered_as_numbers() -> None:
    named = [("args_10", {"index": 0}), ("args_2", {"index": 1})]

    assert [name for name, _ in _by_number(named, [])] == ["args_2", "args_10"]


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"y": np.zeros((1, 4), np.float32)}, "inputs are"),
        ({"x": np.zeros((1, 5), np.float32)}, "shape"),
        ({"x": np.zeros((1, 4), np.float64)}, "float32"),
        ({"x": np.zeros((0, 4), np.float32)}, "at least one"),
        ({}, "at least one"),
    ],
)
def test_what_does_not_fit_is_rejected(tmp_path: Path, feeds: dict[str, np.ndarray], message: str) -> None:
    onnx_file(tmp_path / "m.onnx", 4)
    backend = load(tmp_path / "m.onnx", "onnx")

    with pytest.raises(InputRejectedError, match=message):
        run_rows(backend, feeds)


@pytest.mark.parametrize("fmt", ["onnx", "tflite"])
def test_file_that_is_no_model_is_an_integrity_error(tmp_path: Path, fmt: str) -> None:
    (tmp_path / "m").write_bytes(b"not a model at all")

    with pytest.raises(IntegrityError, match="cannot load"):
        load(tmp_path / "m", fmt)


@pytest.mark.parametrize(("fmt", "modules"), [("onnx", ["onnxruntime"]), ("tflite", ["ai_edge_litert"])])
def test_missing_runtime_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fmt: str, modules: list[str]
) -> None:
    for name in [*modules, "ai_edge_litert.interpreter", "tflite_runtime"]:
        monkeypatch.setitem(sys.modules, name, None)

    with pytest.raises(BackendUnavailableError, match="pip install"):
        load(tmp_path / "m", fmt)


def test_unknown_format_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError, match="onnx, tflite"):
        load(tmp_path / "m", "mlpackage")
