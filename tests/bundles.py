"""Small real models and the values around them, for the tests of packaging, deployment and the device runtime."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgewright.artifact import Dataset, Exported, Format, ImportedModel, ModelTask, Precision
from edgewright.measurement import Accuracy, Latency, Measurement, Parity, ValidationReport
from edgewright.monitor import MonitoringPlan
from edgewright.package import Bundle, build_bundle
from edgewright.profile import Budget, DeviceProfile, load_device
from edgewright.store import Store
from edgewright_runtime.backends import load, run_rows
from edgewright_runtime.bundle.manifest import Column, Preprocessing, TensorSpec

ROWS = 400
LABELS = ("low", "middle", "high")
COLUMNS = (
    Column("tenure", "number"),
    Column("charges", "number", optional=True),
    Column("contract", "category", (("Month-to-month", 0), ("One year", 1), ("Two years", 2))),
)


def softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def onnx_file(path: Path, width: int, seed: int = 1) -> np.ndarray:
    """Writes ``softmax(x W)`` with three classes, and returns W."""
    weights = np.random.default_rng(seed).normal(size=(width, len(LABELS))).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
        ],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", len(LABELS)])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return weights


_TFLITE = """
import sys, litert_torch, torch
torch.manual_seed(0)
layers = (torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 3))
model = torch.nn.Sequential(*layers).eval()
litert_torch.convert(model, (torch.zeros(1, 1, 8, 8),)).export(sys.argv[1])
"""


def tflite_file(path: Path) -> None:
    """Writes a LiteRT CNN: (1, 1, 8, 8) float32 to 3 logits; in a child, since the converter imports half a world."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", _TFLITE, str(path)], check=True, capture_output=True)


def table_rows(seed: int = 3) -> np.ndarray:
    chance = np.random.default_rng(seed)
    rows = [chance.normal(size=ROWS), chance.normal(size=ROWS), chance.integers(-1, 3, ROWS)]
    return np.stack(rows, axis=1).astype(np.float32)


def imported(artifact: object, width: int, columns: tuple[Column, ...]) -> ImportedModel:
    return ImportedModel(
        name="churn",
        source=artifact,
        onnx=artifact,
        graph=None,
        inputs=(TensorSpec("x", (-1, width), "float32"),),
        outputs=(TensorSpec("scores", (-1, len(LABELS)), "float32"),),
        task=ModelTask.CLASSIFICATION,
        labels=LABELS,
        preprocessing=Preprocessing(columns=columns),
    )


def exported(artifact: object) -> Exported:
    return Exported(
        artifact=artifact,
        precision=Precision.FLOAT32,
        inputs=(TensorSpec("x", (-1, 3), "float32"),),
        outputs=(TensorSpec("scores", (-1, len(LABELS)), "float32"),),
        runtime="onnxruntime",
        runtime_floor="1.15.0",
    )


def _drawn(scores: np.ndarray) -> np.ndarray:
    """Truth that falls as the model's probabilities say: a calibrated model's own validation rows."""
    shares = scores if np.allclose(scores.sum(axis=1), 1, atol=1e-3) else softmax(scores)
    return (np.random.default_rng(9).random((len(scores), 1)) > shares.cumsum(axis=1)).sum(axis=1)


def dataset(store: Store, folder: Path, x: np.ndarray, scores: np.ndarray) -> Dataset:
    arrays = {
        "test.x.x": x,
        "test.y": scores.argmax(axis=1),
        "test.reference.scores": scores.astype(np.float64),
        "test.predicted": scores.argmax(axis=1),
        "validation.x.x": x,
        "validation.y": _drawn(scores),
    }
    np.savez(folder / "data.npz", **arrays)
    artifact = store.put(folder / "data.npz", Format.DATASET)
    return Dataset(artifact=artifact, calibration_rows=0, validation_rows=0, test_rows=len(x))


def report(artifact: object, *, p95_ms: float = 2.0, accuracy: float = 0.9) -> ValidationReport:
    rows = 1000
    measured = Measurement(
        artifact=artifact,
        target="this machine",
        accuracy=Accuracy(metric="accuracy", value=accuracy, low=accuracy - 0.02, high=accuracy + 0.02, rows=rows),
        parity=Parity(checked_by="onnxruntime", rows=rows, max_absolute=0.0, agreement=1.0),
        latency=Latency(p50_ms=p95_ms / 2, p95_ms=p95_ms, p99_ms=p95_ms, mean_ms=p95_ms / 2, min_ms=0.1, runs=100),
        load_ms=10.0,
        first_ms=1.0,
        peak_memory_mb=50.0,
        added_memory_mb=8.0,
        noise_percent=2.0,
        download_bytes=700,
    )
    return ValidationReport(
        source_accuracy=measured.accuracy,
        baseline=measured,
        candidate=measured,
        accuracy_drop_percent=0.0,
        drop_low_percent=-0.1,
        drop_high_percent=0.1,
        drop_p_value=1.0,
        latency_ratio=1.0,
        latency_ratio_low=0.9,
        latency_ratio_high=1.1,
        latency_verdict="no difference that this machine can show",
        budget=Budget(),
        lines=(),
        passed=True,
    )


@dataclass(frozen=True)
class Parts:
    """Everything that `build_bundle` takes."""

    model: ImportedModel
    dataset: Dataset
    exported: Exported
    report: ValidationReport
    device: DeviceProfile
    store: Store

    def build(self, monitoring: MonitoringPlan | None = None) -> Bundle:
        return build_bundle(
            self.model, self.dataset, self.exported, self.report, self.device, self.store, monitoring=monitoring
        )


def table_parts(folder: Path, seed: int = 1) -> Parts:
    """A linear classifier of table rows, for ONNX Runtime."""
    folder.mkdir(parents=True, exist_ok=True)
    store = Store(folder / "store")
    weights = onnx_file(folder / "churn.onnx", len(COLUMNS), seed)
    artifact = store.put(folder / "churn.onnx", Format.ONNX)
    x = table_rows()
    return Parts(
        model=imported(artifact, len(COLUMNS), COLUMNS),
        dataset=dataset(store, folder, x, softmax(x @ weights)),
        exported=exported(artifact),
        report=report(artifact),
        device=load_device("generic_edge_device"),
        store=store,
    )


def image_parts(folder: Path) -> Parts:
    """A CNN of 8 x 8 images in 0-16, for LiteRT."""
    folder.mkdir(parents=True, exist_ok=True)
    store = Store(folder / "store")
    tflite_file(folder / "digits.tflite")
    artifact = store.put(folder / "digits.tflite", Format.TFLITE)
    x = np.random.default_rng(5).random((ROWS, 1, 8, 8), np.float32)
    backend = load(artifact.path, "tflite", input_names=["x"], output_names=["scores"])
    logits = run_rows(backend, {"x": x})["scores"]
    tensors = {
        "inputs": (TensorSpec("x", (1, 1, 8, 8), "float32"),),
        "outputs": (TensorSpec("scores", (1, 3), "float32"),),
    }
    return Parts(
        model=imported(artifact, 3, ()).model_copy(
            update={"name": "digits-cnn", "preprocessing": Preprocessing(scale=1 / 16), **tensors}
        ),
        dataset=dataset(store, folder, x, logits),
        exported=exported(artifact).model_copy(update={"runtime": "litert", "runtime_floor": "1.0.0", **tensors}),
        report=report(artifact),
        device=load_device("generic_android"),
        store=store,
    )


_built: dict[str, Bundle] = {}


def _once(name: str, build: Callable[[], Bundle]) -> Bundle:
    # Each folder's conftest registers the fixtures anew, and a session fixture is one a registration.
    if name not in _built:
        _built[name] = build()
    return _built[name]


@pytest.fixture(scope="session")
def table_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return _once("table", lambda: table_parts(tmp_path_factory.mktemp("table")).build())


@pytest.fixture(scope="session")
def newer_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Other weights, same columns."""
    return _once("newer", lambda: table_parts(tmp_path_factory.mktemp("newer"), seed=2).build())


@pytest.fixture(scope="session")
def image_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return _once("image", lambda: image_parts(tmp_path_factory.mktemp("image")).build())
