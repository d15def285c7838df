import socket
from pathlib import Path

import pytest
from mlflow import MlflowClient

from edgewright.errors import TrackingUnavailableError
from edgewright.record import RunRecord, TrackingRecord, VersionRecord
from tasks.tracking import keep_record, pending_records, tracking_uri, upload_record

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning:mlflow")


def _record(tmp_path: Path, record_id: str, digest: str, *, champion: bool) -> TrackingRecord:
    bundle = tmp_path / digest / "bundle"
    bundle.mkdir(parents=True, exist_ok=True)
    (bundle / "manifest.json").write_text(digest)
    stage = RunRecord(name="validate", started_ms=1, ended_ms=2, metrics={"latency_p50_ms": 0.5})
    run = RunRecord(
        name="digits",
        started_ms=1,
        ended_ms=3,
        params={"recipe": "int8"},
        metrics={"size_bytes": 10.0},
        tags={"platform": "android"},
        artifacts=(bundle,),
        children=(stage,),
    )
    version = VersionRecord(
        model_name="digits-android", bundle=bundle, tags={"bundle_digest": digest}, champion=champion
    )
    return TrackingRecord(id=record_id, experiment="edgewright", run=run, version=version)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edgewright_home: Path) -> MlflowClient:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return MlflowClient(tracking_uri=tracking_uri())


def test_upload_nests_runs_and_moves_aliases(store: MlflowClient, tmp_path: Path) -> None:
    first = upload_record.fn(keep_record(_record(tmp_path, "one", "aa", champion=True)))
    upload_record.fn(keep_record(_record(tmp_path, "two", "bb", champion=False)))
    upload_record.fn(keep_record(_record(tmp_path, "three", "bb", champion=True)))
    assert pending_records() == []
    experiment = store.get_experiment_by_name("edgewright")
    nested = store.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{first}'")
    assert [run.data.metrics for run in nested] == [{"latency_p50_ms": 0.5}]
    assert store.get_run(first).data.params == {"recipe": "int8"}
    # one version a bundle, not a run; the alias says what is released, a tag what it replaced
    versions = {str(v.version): v for v in store.search_model_versions("name = 'digits-android'")}
    assert len(versions) == 2
    champion = store.get_model_version_by_alias("digits-android", "champion")
    assert champion.tags["bundle_digest"] == "bb"
    assert versions[champion.tags["previous_champion"]].tags["bundle_digest"] == "aa"
    assert [f.path for f in store.list_artifacts(first, "bundle")] == ["bundle/manifest.json"]


def test_uploading_twice_is_the_same_as_once(store: MlflowClient, tmp_path: Path) -> None:
    record = _record(tmp_path, "same", "cc", champion=False)
    assert upload_record.fn(keep_record(record)) == upload_record.fn(keep_record(record))


def test_a_server_that_is_down_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edgewright_home: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    path = keep_record(_record(tmp_path, "later", "dd", champion=True))
    with pytest.raises(TrackingUnavailableError, match="did not take the run"):
        upload_record.fn(path)
    assert pending_records() == [path]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'back.db'}")
    assert upload_record.fn(path)
    assert pending_records() == []
