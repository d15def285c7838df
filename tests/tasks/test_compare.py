"""Runs read back from a real tracking store."""

from pathlib import Path

import pytest

from edgewright.errors import InputError, TrackingUnavailableError
from tasks.compare import read_runs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.create_experiment("edgewright", artifact_location=(tmp_path / "artifacts").as_uri())
    made = []
    for i, deployment in enumerate(("deployment-a", "deployment-b")):
        run = client.create_run(experiment, run_name=f"digits {i}", tags={"deployment_id": deployment})
        client.log_metric(run.info.run_id, "accuracy", 0.9 + i / 100)
        child = {"mlflow.parentRunId": run.info.run_id, "deployment_id": deployment}
        client.create_run(experiment, run_name="validate", tags=child)
        made.append(str(run.info.run_id))
    return made


def test_runs_are_found_by_either_id_or_its_start(runs: list[str]) -> None:
    found = read_runs([runs[1], "deployment-a", runs[0][:12]])
    assert [run.name for run in found] == ["digits 1", "digits 0", "digits 0"]
    assert found[0].metrics == {"accuracy": 0.91}
    assert found[0].tags == {"deployment_id": "deployment-b"}


def test_unknown_and_ambiguous_ids_are_named(runs: list[str]) -> None:
    with pytest.raises(InputError, match="no run has the id 'nowhere'"):
        read_runs(["nowhere"])
    with pytest.raises(InputError, match="2 runs have the id 'deployment-'"):
        read_runs(["deployment-"])


def test_damaged_database_is_one_line_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = tmp_path / "mlflow.db"
    database.write_text("no database at all" * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    with pytest.raises(TrackingUnavailableError, match=r"did not answer: .*file is not a database"):
        read_runs(["abcdef"])
    assert database.read_text().startswith("no database")
