"""Real models to each platform: what the demo and the first example of the README promise."""

import lzma
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import zstandard
from mlflow import MlflowClient

from edgewright.child import deferred, run_in_child
from edgewright.codec.files import encode_file
from edgewright.pipeline.result import DeploymentResult
from edgewright_runtime.codec.ewz import rebuild
from flows.edge_deployment import deploy

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def digits(home: Path) -> dict[str, Any]:
    run_in_child(partial(deferred("edgewright.demo:make_digits_cnn"), home), what="training", writes=[home])
    return {"model": home / "digits_cnn.pt2", "data": home / "digits.npz"}


def _accuracy(result: DeploymentResult) -> float:
    assert result.report is not None
    assert result.report.candidate.accuracy is not None
    return result.report.candidate.accuracy.value


def _weight_files(path: Path) -> list[Path]:
    return [path] if path.is_file() else list(path.rglob("weight.bin"))


def _tracked(result: DeploymentResult, technique: str) -> dict[str, float]:
    """What MLflow holds of a technique of this run."""
    assert result.tracking is not None
    client = MlflowClient(result.tracking.uri)
    run = client.get_run(str(result.tracking.run_id))
    (stage,) = client.search_runs(
        [run.info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{run.info.run_id}' and attributes.run_name = 'optimize'",
    )
    (found,) = client.search_runs(
        [run.info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{stage.info.run_id}' and attributes.run_name = '{technique}'",
    )
    return found.data.metrics


@pytest.mark.parametrize(("platform", "form"), [("android", "tflite"), ("ios", "mlpackage"), ("edge_device", "onnx")])
def test_int8_cnn_is_smaller_and_as_right_on_every_platform(digits: dict[str, Any], platform: str, form: str) -> None:
    result = deploy(**digits, platform=platform, channel=platform)
    assert result.error is None
    assert result.optimization is not None
    made = result.optimization
    assert made.candidate.artifact.format.value == form
    assert made.candidate.precision.value == "int8"
    assert made.steps[0].kept
    assert made.candidate.artifact.size_bytes < 0.35 * made.baseline.artifact.size_bytes
    assert _accuracy(result) > 0.97
    assert result.report is not None
    measured = result.report.candidate
    assert measured.parity.checked_by is not None
    before, after = made.ledger
    assert (before.stage, after.stage) == ("float32", "quantize")
    assert after.footprint.bits_per_weight < 9 < before.footprint.bits_per_weight < 32
    assert after.accuracy is not None
    assert after.footprint.download_bytes == measured.download_bytes
    assert _tracked(result, "quantize")["bits_per_weight"] == pytest.approx(after.footprint.bits_per_weight)
    for exported in (made.baseline, made.candidate):
        for file in _weight_files(exported.artifact.path):
            content = file.read_bytes()
            coded = encode_file(file).data
            assert rebuild(coded) == content
            best = min(
                len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)),
                len(zstandard.ZstdCompressor(level=19).compress(content)),
            )
            assert len(coded) <= best
    if platform == "ios":
        assert measured.latency is None
        assert any("Core ML" in reason for reason in measured.not_measured)


@pytest.mark.slow
def test_pruned_channels_reach_the_exported_file(digits: dict[str, Any], home: Path) -> None:
    recipe = home / "half.yaml"
    recipe.write_text(
        "description: half the work\nmax_accuracy_drop_percent: 5\n"
        "techniques: [{technique: prune_channels, ratio: 0.5, steps: 2, training: {epochs: 2}}]\n"
    )
    result = deploy(**digits, platform="edge_device", channel="pruned", recipe=str(recipe))
    assert result.error is None
    assert result.optimization is not None
    made = result.optimization
    assert made.steps[0].kept, made.steps[0].reason
    assert made.candidate.artifact.size_bytes < 0.8 * made.baseline.artifact.size_bytes
    assert _accuracy(result) > 0.9


@pytest.mark.shared
def test_churn_example_agrees_with_scikit_learn_on_every_row(home: Path, shared: Path) -> None:
    result = deploy(
        model=shared / "models" / "customer_churn.pkl",
        data=shared / "data" / "telco_customer_churn.csv",
        target="Churn",
        platform="android",
        channel="churn",
        max_latency_ms=100,
        max_memory_mb=50,
    )
    assert result.error is None
    assert result.report is not None
    parity = result.report.candidate.parity
    assert parity.rows > 2000
    assert parity.agreement == 1.0
    assert parity.max_absolute is not None
    assert parity.max_absolute < 1e-5
    assert result.optimization is not None
    assert not result.optimization.steps[0].kept
    assert "thresholds" in result.optimization.steps[0].reason
