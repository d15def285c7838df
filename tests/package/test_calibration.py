from pathlib import Path

import numpy as np
import pytest

from edgewright.package import Bundle, read_bundle
from edgewright.package.calibration import calibrate
from edgewright_runtime.bundle.manifest import Calibration, Scores
from edgewright_runtime.health.confidence import (
    calibrated,
    entropy_confidence,
    margin_confidence,
    population_stability_index,
)
from tests.bundles import LABELS, table_parts


def test_calibrated_model_keeps_a_temperature_near_one(table_bundle: Bundle) -> None:
    found = read_bundle(table_bundle.artifact.path).manifest.calibration

    assert found.rows == 400
    assert found.temperature == pytest.approx(1.0, abs=0.35)
    assert sum(found.histogram) == pytest.approx(1.0)


def test_overconfident_model_is_cooled(tmp_path: Path) -> None:
    parts = table_parts(tmp_path)
    with np.load(parts.dataset.artifact.path) as stored:
        arrays = dict(stored)
    # Half of the truths are drawn blindly: the model is surer than it has a right to be.
    blind = np.random.default_rng(4)
    arrays["validation.y"] = np.where(blind.random(400) < 0.5, blind.integers(0, 3, 400), arrays["validation.y"])
    np.savez(parts.dataset.artifact.path, **arrays)

    found = calibrate(parts.model, parts.dataset, parts.exported, Scores("scores", "probabilities"), tmp_path)

    assert found.temperature > 1.5


def test_no_validation_rows_means_no_calibration(tmp_path: Path) -> None:
    parts = table_parts(tmp_path)
    with np.load(parts.dataset.artifact.path) as stored:
        arrays = {name: stored[name] for name in stored.files if not name.startswith("validation")}
    np.savez(parts.dataset.artifact.path, **arrays)

    assert calibrate(parts.model, parts.dataset, parts.exported, Scores("scores", "probabilities"), tmp_path) is None


def test_temperature_softens_without_changing_the_answer() -> None:
    shown = np.array([[0.9, 0.08, 0.02]])

    softer = calibrated(shown, Calibration(3.0, (), 1))

    assert softer.argmax() == 0
    assert softer[0, 0] < 0.6
    np.testing.assert_allclose(softer.sum(), 1)


def test_confidence_runs_from_none_to_full() -> None:
    even, sure = np.full((1, len(LABELS)), 1 / 3), np.array([[1.0, 0.0, 0.0]])

    for measure in (margin_confidence, entropy_confidence):
        assert measure(even)[0] == pytest.approx(0, abs=1e-6)
        assert measure(sure)[0] == pytest.approx(1, abs=1e-6)


def test_stability_index_of_a_moved_histogram() -> None:
    reference = np.array([0.1, 0.2, 0.7])

    assert population_stability_index(reference, reference * 1000) == pytest.approx(0)
    # (0.4 - 0.7) ln(0.4 / 0.7) + (0.5 - 0.2) ln(0.5 / 0.2), by hand
    assert population_stability_index(reference, np.array([10, 50, 40])) == pytest.approx(0.16788 + 0.27489, abs=1e-4)
