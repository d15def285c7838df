"""Models that are neither a classifier nor a regressor: without answers, or judged by a metric of the user's own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgewright.pipeline.result import DeploymentResult
from edgewright_runtime.predict.hybrid import Hybrid
from edgewright_runtime.predict.predictor import Predictor
from flows.edge_deployment import deploy

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

METRIC = """
import numpy as np

def box_error(outputs, answers):
    return np.abs(outputs["boxes"] - answers).mean()
"""
RECIPE = """
description: Light.
techniques:
  - technique: prune
    sparsity: 0.3
    training: {epochs: 2, learning_rate: 0.001}
  - technique: quantize
"""


class Detector(nn.Module):
    """Boxes (N, 30, 4) and scores (N, 30, 5) of pictures of 17 x 21 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1))
        self.box, self.score = nn.Conv2d(32, 4, 1), nn.Conv2d(32, 5, 1)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.body(image).relu()
        boxes, scores = (head(features).flatten(2).transpose(1, 2) for head in (self.box, self.score))
        return {"boxes": boxes, "scores": scores.softmax(-1)}


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).random((300, 3, 17, 21), np.float32)


@pytest.fixture(scope="module")
def detector(home: Path, pictures: np.ndarray) -> Detector:
    torch.manual_seed(0)
    module, rows = Detector(), torch.from_numpy(pictures)
    for part in rows.split(100):
        module(part)
    batch = torch.export.Dim("batch", min=1, max=4096)
    torch.export.save(torch.export.export(module.eval(), (rows[:2],), dynamic_shapes=({0: batch},)), home / "det.pt2")
    with torch.no_grad():
        boxes = module(rows)["boxes"].numpy()
    np.savez(home / "unlabelled.npz", x=pictures)
    (home / "unlabelled.yaml").write_text("path: unlabelled.npz\ntask: none\n")
    np.savez(home / "boxes.npz", x=pictures, y=boxes + np.float32(0.1))
    (home / "boxes.yaml").write_text("path: boxes.npz\nmetric: box_metric:box_error\nmetric_better: lower\n")
    (home / "box_metric.py").write_text(METRIC)
    (home / "light.yaml").write_text(RECIPE)
    return module


def deployed(home: Path, data: str) -> DeploymentResult:
    return deploy(
        model=home / "det.pt2",
        data=home / data,
        platform="edge_device",
        recipe=str(home / "light.yaml"),
        repository=str(home / "releases"),
        name=Path(data).stem,
    )


def test_without_answers_the_source_s_own_are_kept(home: Path, detector: Detector, pictures: np.ndarray) -> None:
    result = deployed(home, "unlabelled.yaml")
    assert result.error is None
    assert result.report is not None
    assert result.bundle is not None
    found = result.report.candidate
    assert found.accuracy is not None
    assert found.accuracy.metric == "fidelity"
    assert 0.99 <= found.accuracy.value < 1
    assert [output.name for output in found.parity.outputs] == ["boxes", "scores"]
    assert all(output.fidelity >= found.accuracy.value for output in found.parity.outputs)
    assert result.page is not None
    assert "same largest element" in result.page.read_text()
    # The device answers with every output by its name, and the first is the answer.
    predicted = Predictor(result.bundle.artifact.path).predict(pictures[:7])
    with torch.no_grad():
        expected = detector(torch.from_numpy(pictures[:7]))
    assert predicted.labels == ()
    assert predicted.scores.shape == (7, 30, 4)
    for name, answer in expected.items():
        assert np.abs(predicted.outputs[name] - answer.numpy()).max() < 0.2 * float(answer.abs().max())
    answered = Hybrid(Predictor(result.bundle.artifact.path), "detector").answer(pictures[:1])
    assert answered.outputs is not None
    np.testing.assert_allclose(answered.outputs["scores"], predicted.outputs["scores"][0], atol=1e-6)
    assert (answered.label, answered.confidence, len(answered.scores)) == (None, None, 120)
    np.save(home / "picture.npy", pictures[:2])
    command = [sys.executable, "-m", "edgewright_runtime", "predict", str(home / "picture.npy"), "--bundle"]
    done = subprocess.run([*command, result.bundle.artifact.path], capture_output=True, text=True, check=True)
    np.testing.assert_allclose(json.loads(done.stdout)["outputs"]["boxes"], predicted.outputs["boxes"][:2], atol=1e-6)


def test_a_network_of_several_outputs_is_trained_on_its_own_answers(home: Path, detector: Detector) -> None:
    result = deployed(home, "unlabelled.yaml")
    assert result.optimization is not None
    pruned = result.optimization.steps[0]
    assert pruned.technique == "prune"
    assert pruned.exported is not None  # it was trained, without a label, and exported
    assert "it learnt the source's own answers" in pruned.reason


def test_the_user_s_own_metric_judges(home: Path, detector: Detector) -> None:
    result = deployed(home, "boxes.yaml")
    assert result.error is None
    assert result.report is not None
    source, found = result.report.source_accuracy, result.report.candidate.accuracy
    assert source is not None
    assert found is not None
    assert source.metric == found.metric == "box_metric:box_error"
    assert source.value == pytest.approx(0.1, rel=1e-3)
    loss = 100 * (found.value - source.value) / source.value
    assert result.report.accuracy_drop_percent == pytest.approx(loss)
    (line,) = (line for line in result.report.lines if line.figure == "accuracy drop")
    assert line.unit == "percent of the source's"
    assert line.measured == pytest.approx(loss)
