"""The pipeline end to end on a real model: resume, re-run, tracking, budget; once for each thing that can go wrong."""

import json
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from edgewright.pipeline.result import DeploymentResult
from edgewright.pipeline.stages import STAGES
from edgewright.progress import Announcement, progress
from edgewright_runtime.predict.predictor import Predictor
from flows.edge_deployment import deploy
from tasks.tracking import pending_records

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

WORK = {"Taking in the model and its data", "Exporting to the platform's format", "Measuring latency and memory"}


@pytest.fixture(scope="module")
def asked(home: Path) -> dict[str, Any]:
    table = load_breast_cancer(as_frame=True).frame
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    model.fit(table.drop(columns="target"), table["target"])
    (home / "cancer.pkl").write_bytes(pickle.dumps(model))
    table.to_csv(home / "cancer.csv", index=False)
    return {
        "model": home / "cancer.pkl",
        "data": home / "cancer.csv",
        "target": "target",
        "platform": "edge_device",
        "recipe": "float32",
        "repository": str(home / "releases"),
    }


@pytest.fixture(scope="module")
def first(asked: dict[str, Any]) -> DeploymentResult:
    return deploy(**asked)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What ran in a child process, that is what was computed and not found."""
    import edgewright.child

    ran: list[str] = []
    real = edgewright.child.subprocess.Popen

    def watched(line: list[str], **options: Any) -> Any:
        if "edgewright.child" in line:
            ran.append(json.loads(Path(line[3]).read_text())["target"])
        return real(line, **options)

    monkeypatch.setattr(edgewright.child.subprocess, "Popen", watched)
    return lambda: ran


def test_five_stages_end_in_a_bundle_that_a_device_can_use(first: DeploymentResult) -> None:
    assert first.error is None
    assert first.completed_stages == STAGES
    assert first.bundle is not None
    predictor = Predictor(first.bundle.artifact.path)
    table = load_breast_cancer(as_frame=True).frame
    row = table.drop(columns="target").iloc[0].to_dict()
    assert predictor.predict(row).labels == (str(table["target"].iloc[0]),)


def test_measurements_and_artifacts_are_in_the_result(first: DeploymentResult) -> None:
    assert {a.format.value for a in first.artifacts} >= {"sklearn", "onnx", "dataset", "bundle"}
    candidate = first.measurements[1]
    assert candidate.accuracy is not None
    assert candidate.accuracy.value > 0.9
    assert candidate.latency is not None
    assert candidate.latency.p50_ms > 0
    assert candidate.peak_memory_mb is not None
    assert candidate.parity.agreement == 1.0
    assert DeploymentResult.model_validate_json(first.model_dump_json()) == first
    assert first.page is not None
    assert "<html" in first.page.read_text()


def test_the_ledger_has_the_baseline_and_every_technique_with_all_its_figures(first: DeploymentResult) -> None:
    made = first.optimization
    assert made is not None
    assert [entry.stage for entry in made.ledger] == ["float32", *(s.technique for s in made.steps if s.exported)]
    assert [entry.kept for entry in made.ledger[1:]] == [step.kept for step in made.steps if step.exported]
    for entry in made.ledger:
        assert (entry.accuracy is None) == (entry.latency is None) == (len(made.ledger) == 1)
        assert 0 < entry.footprint.download_bytes < entry.footprint.size_bytes


def test_unchanged_run_computes_nothing(
    first: DeploymentResult, asked: dict[str, Any], computed: Callable[[], list[str]]
) -> None:
    again = deploy(**asked)
    assert computed() == []
    assert again.bundle == first.bundle
    assert again.release == first.release


@pytest.mark.parametrize("kind", ["onnx", "bundle"])
def test_rotten_byte_in_the_store_is_not_released(first: DeploymentResult, asked: dict[str, Any], kind: str) -> None:
    assert first.release is not None
    artifact = next(a for a in reversed(first.artifacts) if a.format.value == kind)
    files = [artifact.path] if artifact.path.is_file() else sorted(artifact.path.glob("*.onnx"))
    content = files[0].read_bytes()
    files[0].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    again = deploy(**asked)

    assert again.status == "succeeded"
    assert files[0].read_bytes() == content
    assert [note for note in again.notes if "replaced" in note]
    assert again.bundle == first.bundle
    assert again.release is not None
    assert again.release.bundle_digest == first.release.bundle_digest


def test_failure_in_stage_four_resumes_there(
    first: DeploymentResult, asked: dict[str, Any], home: Path, computed: Callable[[], list[str]]
) -> None:
    blocked = home / "blocked"
    blocked.write_text("a file where the repository should be")
    changed = {**asked, "max_size_mb": 5.0}  # a new budget is a new judgement, hence a new bundle
    failed = deploy(**{**changed, "repository": str(blocked)})
    assert failed.status == "failed"
    assert failed.completed_stages == ("optimize", "validate", "package")
    assert str(blocked) in str(failed.error)
    before = len(computed())
    seen: list[Announcement] = []
    with progress.listening(seen.append):
        resumed = deploy(**changed)
    assert resumed.status == "succeeded"
    assert resumed.bundle == failed.bundle
    assert computed()[before:] == []
    assert resumed.release is not None
    assert first.release is not None
    assert resumed.release.version == first.release.version + 1


def test_name_platform_and_channel_make_the_line(first: DeploymentResult, asked: dict[str, Any]) -> None:
    other = deploy(**asked, name="second opinion")
    beta = deploy(**asked, channel="beta")
    assert first.release is not None
    assert first.release.line == "cancer.edge_device.stable"
    assert other.release is not None
    assert beta.release is not None
    assert (other.release.model, other.release.version) == ("second opinion", 1)
    assert (beta.release.line, beta.release.version) == ("cancer.edge_device.beta", 1)
    again = deploy(**asked)
    assert again.release is not None
    assert again.release.line == first.release.line


def test_another_model_in_a_file_of_the_same_name_is_not_released_there(
    first: DeploymentResult, asked: dict[str, Any], home: Path
) -> None:
    (home / "elsewhere").mkdir()
    table = load_iris(as_frame=True).frame
    model = LogisticRegression(max_iter=500).fit(table.drop(columns="target"), table["target"])
    (home / "elsewhere" / "cancer.pkl").write_bytes(pickle.dumps(model))
    table.to_csv(home / "elsewhere" / "iris.csv", index=False)
    other = {**asked, "model": home / "elsewhere" / "cancer.pkl", "data": home / "elsewhere" / "iris.csv"}
    refused = deploy(**other)
    assert refused.completed_stages == ("optimize", "validate", "package")
    assert "'cancer' for edge_device is another model there (no column in common" in str(refused.error)
    assert "--name" in str(refused.error)
    named = deploy(**other, name="iris")
    assert named.release is not None
    assert named.release.line == "iris.edge_device.stable"


def test_missed_budget_stops_before_packaging(asked: dict[str, Any], first: DeploymentResult) -> None:
    result = deploy(**asked, max_size_mb=0.000001, max_latency_ms=100.0)
    assert result.over_budget
    assert result.completed_stages == ("optimize", "validate")
    assert result.bundle is None
    assert "size on disk" in str(result.error)
    assert "misses its limit of 1e-06 MB by" in str(result.error)
    assert "latency" not in str(result.error)


def test_a_source_that_is_barely_better_than_chance_is_released_only_if_asked_for(
    asked: dict[str, Any], home: Path
) -> None:
    """The labels of other rows: as a wrong column, a wrong order of classes or a wrong scale would look."""
    table = pd.read_csv(home / "cancer.csv")
    table["target"] = table["target"].sample(frac=1, random_state=0).to_numpy()
    table.to_csv(home / "shuffled.csv", index=False)
    shuffled = {**asked, "data": home / "shuffled.csv", "repository": str(home / "poor")}

    stopped = deploy(**shuffled)

    assert stopped.completed_stages == ("optimize", "validate")
    assert not stopped.over_budget
    assert stopped.error is not None
    assert stopped.error.startswith("the source model is barely better than chance: of each of the 2 classes it has")
    assert "--allow-poor-source" in stopped.error
    assert not (home / "poor").exists()
    page = (home / "reports" / stopped.deployment_id / "report.html").read_text()
    assert "barely better than chance" in page.split("<section>", maxsplit=1)[0]

    released = deploy(**shuffled, allow_poor_source=True)

    assert released.completed_stages == STAGES
    assert released.bundle is not None
    manifest = json.loads((released.bundle.artifact.path / "manifest.json").read_text())
    assert manifest["notes"][0].startswith("the source model is barely better than chance")


def test_a_source_far_worse_than_on_its_training_rows_is_released_only_if_asked_for(
    asked: dict[str, Any], home: Path
) -> None:
    """Test rows of which every third bears the other label: better than chance, and far below what was learnt."""
    table = load_breast_cancer(as_frame=True).frame
    x, y = table.drop(columns="target").to_numpy(np.float32), table["target"].to_numpy()
    order = np.random.default_rng(0).permutation(len(y))
    training, test = order[200:], order[:200]
    truth = y[test].copy()
    truth[::3] = 1 - truth[::3]
    np.savez(home / "apart.npz", x_train=x[training], y_train=y[training], x_test=x[test], y_test=truth)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(x[training], y[training])
    (home / "apart.pkl").write_bytes(pickle.dumps(model))
    request = {
        **{name: value for name, value in asked.items() if name != "target"},
        "model": home / "apart.pkl",
        "data": home / "apart.npz",
        "repository": str(home / "apart"),
    }

    stopped = deploy(**request)

    assert stopped.completed_stages == ("optimize", "validate")
    assert stopped.error is not None
    assert stopped.error.startswith("the source model is far worse on test rows than on training rows: accuracy 0.6")
    assert "--allow-poor-source" in stopped.error
    assert not (home / "apart").exists()


def test_mlflow_has_parent_stages_and_registered_version(first: DeploymentResult) -> None:
    assert first.tracking is not None
    client = MlflowClient(first.tracking.uri)
    run = client.get_run(str(first.tracking.run_id))
    expected = {"size_bytes", "size_ratio", "download_bytes", "accuracy", "accuracy_drop", "latency_p50_ms"}
    assert expected | {"latency_p95_ms", "peak_memory_mb"} <= set(run.data.metrics)
    assert {"source_digest", "platform", "device", "recipe"} <= set(run.data.tags)
    nested = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    assert {child.info.run_name for child in nested} == set(STAGES)
    names = {f.path for f in client.list_artifacts(run.info.run_id)}
    assert {"ledger.csv", "report.html", "report.json", "report.md", "report.svg"} < names
    champion = client.get_model_version_by_alias("cancer-edge_device", "champion")
    assert first.bundle is not None
    assert champion.tags["platform"] == "edge_device"


def test_tracking_server_that_is_down_costs_nothing(
    asked: dict[str, Any], first: DeploymentResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with monkeypatch.context() as down:
        down.setattr("tasks.caching._RETRY_DELAYS_S", [0.0, 0.0])
        down.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        result = deploy(**asked)
    assert result.status == "succeeded"
    assert result.tracking is not None
    assert result.tracking.run_id is None
    assert [str(p) for p in pending_records()] == [result.tracking.pending]
    later = deploy(**asked)
    assert later.tracking is not None
    assert later.tracking.run_id
    assert pending_records() == []


def test_data_that_cannot_be_used_fails_with_one_line(asked: dict[str, Any], home: Path) -> None:
    np.savez(home / "bad.npz", x=np.zeros((4, 7)), y=np.zeros(3))
    result = deploy(**{**asked, "data": home / "bad.npz", "target": None})
    assert result.status == "failed"
    assert result.completed_stages == ()
    assert "\n" not in str(result.error)


def test_blank_in_a_number_that_the_model_cannot_take_is_refused(asked: dict[str, Any], home: Path) -> None:
    table = pd.read_csv(asked["data"])
    table.loc[3, "mean radius"] = np.nan
    table.to_csv(home / "holes.csv", index=False)
    result = deploy(**{**asked, "data": home / "holes.csv"})
    assert result.status == "failed"
    assert "mean radius" in str(result.error)
