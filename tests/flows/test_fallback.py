"""What the recipe made passes on the validation rows and misses a limit on the test rows: float32 is released."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier

from edgewright.artifact import Precision
from edgewright.pipeline.stages import STAGES
from edgewright_runtime.predict.predictor import Predictor
from flows.edge_deployment import deploy

pytestmark = pytest.mark.filterwarnings("ignore")

ALWAYS = "description: int8.\ntechniques:\n  - technique: quantize\n    dtype: int8\n    keep: always\n"


@pytest.fixture(scope="module")
def asked(home: Path) -> dict[str, Any]:
    """Classes that overlap: int8 moves a test row or two, which chance explains, over a limit of nearly nothing."""
    random = np.random.default_rng(0)
    centres, y = random.normal(size=(10, 8)), random.integers(0, 10, 1500)
    x = (centres[y] + 0.8 * random.normal(size=(1500, 8))).astype(np.float32)
    model = MLPClassifier((32, 32), max_iter=60, random_state=0).fit(x[:900], y[:900])
    (home / "noisy.pkl").write_bytes(pickle.dumps(model))
    np.savez(home / "noisy.npz", x=x, y=y)
    return {
        "model": home / "noisy.pkl",
        "data": home / "noisy.npz",
        "platform": "edge_device",
        "recipe": "int8",
        "max_accuracy_drop": 0.01,
        "repository": str(home / "releases"),
    }


def test_float32_is_released_and_said_where_int8_misses_a_limit_on_the_test_rows(asked: dict[str, Any]) -> None:
    result = deploy(**asked)

    assert (result.status, result.completed_stages) == ("succeeded", STAGES)
    assert result.optimization is not None
    assert result.report is not None
    assert result.bundle is not None
    note = result.report.notes[0]
    assert note.startswith("released in float32, without quantize, which misses a limit on the test rows: accuracy dr")
    assert note in result.notes
    made = result.optimization
    assert made.candidate == made.baseline
    assert made.candidate.precision is Precision.FLOAT32
    assert made.model.is_untouched
    assert [step.kept for step in made.steps] == [False]
    assert "not released: accuracy drop" in made.steps[0].reason
    assert [entry.kept for entry in made.ledger] == [True, False]
    assert (result.report.passed, result.report.accuracy_drop_percent) == (True, 0.0)
    row = np.load(result.bundle.artifact.path / "example.npy")
    assert Predictor(result.bundle.artifact.path).predict(row).scores[0].size == 10


def test_what_is_to_be_kept_always_has_no_fallback(asked: dict[str, Any], home: Path) -> None:
    (home / "always.yaml").write_text(ALWAYS)
    result = deploy(**{**asked, "recipe": str(home / "always.yaml")})
    assert result.over_budget
    assert "accuracy drop" in str(result.error)
    assert result.completed_stages == ("optimize", "validate")


def test_the_run_ends_with_what_was_missed_where_float32_misses_a_limit_too(asked: dict[str, Any]) -> None:
    result = deploy(**asked, max_latency_ms=1e-6)
    assert result.over_budget
    assert "accuracy drop" in str(result.error)
    assert "p95 latency" in str(result.error)
    assert result.optimization is not None
    assert result.optimization.candidate.precision is Precision.INT8
