"""An empty environment variable is one that is not set, wherever one is read."""

import os
from pathlib import Path

import pytest

from edgewright.pipeline.orchestration import configure_orchestration
from edgewright.profile import profiles_folder
from edgewright.project import project_folder
from edgewright.store import home
from flows.prefect_home import prefect_home
from tasks.tracking import configure_client, tracking_uri


def test_empty_variables_leave_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("EDGEWRIGHT_HOME", "EDGEWRIGHT_PROFILES", "PREFECT_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "")

    assert home() == tmp_path / ".edgewright"
    assert profiles_folder() == project_folder() / "profiles"
    assert prefect_home() == Path.home() / ".prefect"
    assert tracking_uri() == f"sqlite:///{tmp_path}/.edgewright/mlflow/mlflow.db"


def test_defaults_for_libraries_replace_empty_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("EDGEWRIGHT_HOME", "PREFECT_HOME", "DO_NOT_TRACK", "MLFLOW_HTTP_REQUEST_TIMEOUT")
    for name in names:
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("HOME", str(tmp_path))  # a home of the user's own without a set-up of Prefect

    configure_orchestration()
    configure_client()

    expected = [str(tmp_path / ".edgewright"), str(tmp_path / ".edgewright" / "prefect"), "1", "20"]
    assert [os.environ[name] for name in names] == expected


@pytest.mark.parametrize("name", ["PREFECT_API_URL", "PREFECT_PROFILE"])
def test_empty_address_is_no_server_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from flows import home_server

    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv(name, "")
    monkeypatch.setattr(home_server, "running_servers", lambda: {"prefect": "http://p", "mlflow": "http://m"})

    with home_server.orchestrator() as said:
        assert said is not None
        assert said.startswith("using the running servers: http://p")
