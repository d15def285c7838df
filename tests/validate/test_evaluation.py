"""The exported file in its own runtime, in a child process, over every row."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgewright.artifact import Dataset, Exported, ImportedModel, ModelTask
from edgewright.errors import ConversionError, InputError, UnsupportedError
from edgewright.validate import evaluate

Export = Callable[..., Exported]


def test_equal_model_agrees_on_every_row(
    imported: ImportedModel, dataset: Dataset, export: Export, weights: np.ndarray
) -> None:
    found = evaluate(imported, dataset, export(weights))
    assert found.parity.checked_by is not None
    assert found.parity.checked_by.startswith("onnxruntime ")
    assert (found.parity.agreement, found.parity.rows) == (1.0, dataset.test_rows)
    assert found.parity.max_absolute is not None
    assert 0 < found.parity.max_absolute < 1e-5
    assert found.accuracy == found.source_accuracy
    assert found.drop is not None
    assert found.drop.percent == 0
    assert [c.label for c in found.per_class] == list(imported.labels)


def test_batch_of_one_is_run_row_by_row(
    imported: ImportedModel, dataset: Dataset, export: Export, weights: np.ndarray
) -> None:
    found = evaluate(imported, dataset, export(weights, batch=1))
    assert found.parity.agreement == 1.0
    assert found.parity.rows == dataset.test_rows


def test_damaged_model_is_found_out(
    imported: ImportedModel, dataset: Dataset, export: Export, weights: np.ndarray
) -> None:
    damaged = weights.copy()
    damaged[:, 0] = 0
    found = evaluate(imported, dataset, export(damaged))
    assert found.drop is not None
    assert found.drop.percent > 5
    assert found.drop.p_value < 0.001
    assert found.parity.disagreements
    assert "rows differ" in found.parity.explanation


def test_regressor_is_judged_by_its_numbers(
    imported: ImportedModel, dataset: Dataset, export: Export, weights: np.ndarray
) -> None:
    with np.load(dataset.artifact.path) as archive:
        arrays = {**archive, "test.y": archive["test.reference.scores"][:, 0] * 1.0}
    np.savez(dataset.artifact.path, **{**arrays, "test.reference.scores": arrays["test.reference.scores"][:, :1]})
    model = imported.model_copy(update={"task": ModelTask.REGRESSION, "labels": ()})
    with pytest.raises(ConversionError, match=r"has shape \[3\] a row, the source model's has \[1\]"):
        evaluate(model, dataset, export(weights))


@pytest.mark.parametrize("answered", [False, True], ids=["imported", "source"])
def test_validation_split_needs_no_predictions_of_its_own(
    imported: ImportedModel, dataset: Dataset, export: Export, weights: np.ndarray, answered: bool
) -> None:
    with np.load(dataset.artifact.path) as archive:
        arrays = dict(archive)
    own = {"validation.x.x": arrays["test.x.x"][:50], "validation.y": arrays["test.y"][:50]}
    if answered:
        own["validation.reference.scores"] = arrays["test.reference.scores"][:50]
    np.savez(dataset.artifact.path, **arrays, **own)
    found = evaluate(imported, dataset, export(weights), split="validation")
    assert found.parity.rows == 50
    assert found.parity.agreement == 1.0


def test_nan_output_is_refused_by_name(
    imported: ImportedModel, dataset: Dataset, export: Export, weights: np.ndarray
) -> None:
    with pytest.raises(ConversionError, match=r"broken.onnx: output 'scores' is NaN or infinite in 300 of 300 test"):
        evaluate(imported, dataset, export(weights * np.nan, "broken.onnx"))


def test_dataset_without_source_answers_is_refused(
    imported: ImportedModel, dataset: Dataset, export: Export, weights: np.ndarray
) -> None:
    np.savez(dataset.artifact.path, **{"test.x.x": np.ones((3, 16), np.float32), "test.y": np.ones(3)})
    with pytest.raises(InputError, match=r"needs test.x.\*, test.y and test.reference"):
        evaluate(imported, dataset, export(weights))


STANDIN = """
import os, signal, time
__version__ = "stand-in"
class SessionOptions:
    def add_session_config_entry(self, key, value): ...
def get_available_providers():
    return ["CPUExecutionProvider"]
def InferenceSession(*a, **k):
    {act}
"""


@pytest.fixture
def standin_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A stand-in for ONNX Runtime that misbehaves as told: real ones crash too rarely to wait for."""

    def install(act: str) -> None:
        folder = tmp_path / "standin"
        folder.mkdir()
        (folder / "onnxruntime.py").write_text(STANDIN.format(act=act))
        monkeypatch.setenv("PYTHONPATH", str(folder))

    return install


def test_crash_of_the_runtime_is_named_by_its_signal(
    imported: ImportedModel,
    dataset: Dataset,
    export: Export,
    weights: np.ndarray,
    standin_runtime: Callable[[str], None],
) -> None:
    standin_runtime("os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(ConversionError, match=r"running model.onnx on the test rows: .* ended by SIGSEGV"):
        evaluate(imported, dataset, export(weights))


def test_hang_of_the_runtime_is_ended_and_said(
    imported: ImportedModel,
    dataset: Dataset,
    export: Export,
    weights: np.ndarray,
    standin_runtime: Callable[[str], None],
) -> None:
    standin_runtime("time.sleep(600)")
    with pytest.raises(ConversionError, match="no answer after 1 s; the process was stopped"):
        evaluate(imported, dataset, export(weights), timeout_s=1)


def test_missing_runtime_is_unsupported(
    imported: ImportedModel,
    dataset: Dataset,
    export: Export,
    weights: np.ndarray,
    standin_runtime: Callable[[str], None],
) -> None:
    standin_runtime("...\nraise ImportError('not here')")
    with pytest.raises(UnsupportedError, match="ONNX Runtime is not installed"):
        evaluate(imported, dataset, export(weights))
