"""How a profile shapes the file, and each way to quantize: a released bundle that works, or a refusal by name."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from edgewright.child import deferred, run_in_child
from edgewright.export import mlpackage
from edgewright.pipeline.result import DeploymentResult
from edgewright.profile import profiles_folder
from edgewright_runtime.predict.predictor import Predictor
from edgewright_runtime.update.golden import check_bundle
from flows.edge_deployment import deploy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]

Deploy = Callable[[str, dict[str, bool], str], DeploymentResult]


@pytest.fixture(scope="module")
def images(home: Path) -> tuple[np.ndarray, np.ndarray]:
    """Test images in whole pixels of 0 to 16, and their digits; the model beside them takes pixels / 16."""
    run_in_child(partial(deferred("edgewright.demo:make_digits_cnn"), home), what="training", writes=[home])
    with np.load(home / "digits.npz") as arrays:
        scaled = {name: np.rint(16 * array) if name.startswith("x") else array for name, array in arrays.items()}
    np.savez(home / "pixels.npz", **{name: a.astype(np.float32 if a.ndim > 1 else int) for name, a in scaled.items()})
    (home / "pixels.yaml").write_text("path: pixels.npz\nscale: 0.0625\n")
    return scaled["x_test"].astype(np.float32), scaled["y_test"]


@pytest.fixture
def deployed(home: Path, images: object) -> Deploy:
    def run(platform: str, options: dict[str, bool], dtype: str) -> DeploymentResult:
        device = yaml.safe_load((profiles_folder() / "devices" / f"generic_{platform}.yaml").read_text())
        (home / "own.device.yaml").write_text(yaml.safe_dump({**device, "export": options}))
        techniques = f"[{{technique: quantize, dtype: {dtype}}}]"
        (home / "recipe.yaml").write_text(f"description: one way to quantize\ntechniques: {techniques}\n")
        asked: dict[str, Any] = {"model": home / "digits_cnn.pt2", "data": home / "pixels.yaml"}
        return deploy(**asked, device=str(home / "own.device.yaml"), recipe=str(home / "recipe.yaml"), channel=dtype)

    return run


def _bundle(result: DeploymentResult, precision: str) -> Path:
    assert result.error is None
    assert result.bundle is not None
    assert result.release is not None
    assert result.optimization is not None
    assert result.optimization.steps[0].kept, result.optimization.steps[0].reason
    assert result.optimization.candidate.precision.value == precision
    return result.bundle.artifact.path


def _accuracy(folder: Path, images: tuple[np.ndarray, np.ndarray]) -> float:
    """Of the bundle's predictor on raw pixels, as on the device."""
    check_bundle(folder)
    return float((Predictor(folder).predict(images[0]).indices == images[1]).mean())


def test_ort_bundle_runs_and_brings_the_operators_of_a_reduced_build(deployed: Deploy, images: Any) -> None:
    folder = _bundle(deployed("edge_device", {"ort_format": True}, "int8"), "int8")
    assert (folder / "digits_cnn.ort").read_bytes()[4:8] == b"ORTM"
    needed = (folder / "required_operators.config").read_text()
    lines = [line.split(";") for line in needed.splitlines()]
    assert {domain for domain, _, _ in lines} <= {"ai.onnx", "com.microsoft"}
    # Nothing fuses such a file when it is loaded: convolutions on integers must stand in it.
    assert "QLinearConv" in {operator for _, _, operators in lines for operator in operators.split(",")}
    assert _accuracy(folder, images) > 0.97


def test_android_bundle_of_integer_tensors_takes_raw_pixels(deployed: Deploy, images: Any) -> None:
    folder = _bundle(deployed("android", {"integer_tensors": True}, "int8"), "int8")
    predictor = Predictor(folder)
    tensors = (*predictor.manifest.inputs, *predictor.manifest.outputs)
    assert [(spec.dtype, spec.scale is not None) for spec in tensors] == [("int8", True)] * 2
    assert _accuracy(folder, images) > 0.97
    code = (folder / "DigitsCnn.kt").read_text()
    assert "fun predict(input: FloatArray)" in code
    assert f"{predictor.manifest.inputs[0].scale!r}f" in code
    assert "coerceIn(-128, 127).toByte()" in code
    assert "buffer(64)" in code
    assert "buffer(10)" in code


@pytest.mark.parametrize("dtype", ["dynamic_int8", "int4"])
def test_weights_in_fewer_bits_alone_reach_a_released_bundle(deployed: Deploy, images: Any, dtype: str) -> None:
    folder = _bundle(deployed("android", {}, dtype), dtype)
    manifest = Predictor(folder).manifest
    assert {spec.dtype for spec in manifest.inputs} == {"float32"}
    assert any(note.startswith("GPU delegate: ") for note in manifest.notes)
    assert _accuracy(folder, images) > 0.96


def test_ios_bundle_of_images_and_labels(deployed: Deploy) -> None:
    result = deployed("ios", {"image_inputs": True, "class_labels": True}, "int8")
    folder = _bundle(result, "int8")
    assert result.report is not None
    assert result.report.candidate.accuracy is not None
    assert result.report.candidate.accuracy.value > 0.97
    described = mlpackage.load(folder / "digits_cnn.mlpackage").description
    assert [feature.type.WhichOneof("Type") for feature in described.input] == ["imageType"]
    assert {feature.type.WhichOneof("Type") for feature in described.output} == {"stringType", "dictionaryType"}
    code = (folder / "DigitsCnn.swift").read_text()
    assert "func predict(input: CGImage)" in code
    assert "predictedProbabilitiesName" in code
    assert "multiArrayValue" not in code
    assert result.optimization is not None
    assert any("8-bit pixels" in note for note in result.optimization.candidate.notes)


def test_dynamic_int8_on_ios_is_refused_by_name(deployed: Deploy) -> None:
    result = deployed("ios", {"image_inputs": True, "class_labels": True}, "dynamic_int8")
    assert result.error is None
    assert result.optimization is not None
    step = result.optimization.steps[0]
    assert not step.kept
    assert "use int8" in step.reason
