"""Several runs in one home: they share a server, and each ends with its release, its record and its JSON."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from sklearn.linear_model import LogisticRegression

from edgewright.locks import locked

RUNS = 4


def _environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "EDGEWRIGHT_HOME": str(folder / "home"),
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_LOCAL_STORAGE_PATH": str(folder / "results"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
    }


def _is_served(folder: Path) -> bool:
    with locked(folder / "prefect" / ".edgewright-server.alive", wait=False) as nobody:
        return not nobody


def _ends(folder: Path) -> bool:
    deadline = time.monotonic() + 30
    while _is_served(folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not _is_served(folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_four_deployments_at_once_in_one_home_and_channel(tmp_path: Path) -> None:
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(300, 3)), columns=list("abc"))
    table["label"] = (table["a"] + table["b"] > 0).astype(int)
    model = LogisticRegression().fit(table[list("abc")], table["label"])
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    table.to_csv(tmp_path / "data.csv", index=False)
    words = [
        "deploy",
        "model.pkl",
        "--data",
        "data.csv",
        "--target",
        "label",
        "--platform",
        "edge_device",
        "--recipe",
        "float32",
        "--json",
    ]
    line = [sys.executable, "-m", "edgewright", *words]
    options = {"cwd": tmp_path, "env": _environment(tmp_path), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}

    runs = [subprocess.Popen([*line, f"{n}.json"], text=True, **options) for n in range(RUNS)]
    said = [run.communicate(timeout=800) for run in runs]

    assert [run.returncode for run in runs] == [0] * RUNS, said
    assert [err for _, err in said if "Traceback" in err] == []
    results = [json.loads((tmp_path / f"{n}.json").read_text()) for n in range(RUNS)]
    assert {result["status"] for result in results} == {"succeeded"}
    ids = {result["tracking"]["run_id"] for result in results}
    assert len(ids) == RUNS
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    for run_id in ids:
        assert client.get_run(run_id).data.tags["edgewright.complete"] == "true"
    champion = client.get_model_version_by_alias("model-edge_device", "champion")
    assert champion.tags["release_version"] == str(max(result["release"]["version"] for result in results))
    assert [p.name for p in (tmp_path / "home" / "tracking").glob("*.json")] == []
    assert _ends(tmp_path)


_USER = """
import os, sys, time
from pathlib import Path
from flows.home_server import orchestrator
with orchestrator():
    Path(sys.argv[1]).write_text(os.environ["PREFECT_API_URL"])
    time.sleep(60)
"""


def _using(folder: Path, name: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _USER, str(folder / name)], env=_environment(folder))


def _url(path: Path, process: subprocess.Popen[bytes]) -> str:
    while not (path.exists() and path.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    return path.read_text()


def test_runs_share_a_server_that_ends_with_the_last_of_them_however_it_ended(tmp_path: Path) -> None:
    users = [_using(tmp_path, name) for name in ("a", "b")]
    urls = {_url(tmp_path / name, user) for name, user in zip(("a", "b"), users, strict=True)}
    assert len(urls) == 1

    users[0].send_signal(signal.SIGKILL)
    users[0].wait()
    time.sleep(2.5)
    assert _is_served(tmp_path)
    users[1].send_signal(signal.SIGKILL)
    users[1].wait()
    assert _ends(tmp_path)


@pytest.mark.parametrize("name", ["PREFECT_API_URL", "PREFECT_PROFILE"])
def test_server_that_the_user_has_configured_is_used(tmp_path: Path, name: str) -> None:
    environment = {**_environment(tmp_path), name: "http://127.0.0.1:9/api"}
    code = "from flows.home_server import orchestrator\nwith orchestrator() as said: assert said is None"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert not (tmp_path / "prefect").exists()
