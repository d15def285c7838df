"""The deploy command with few open files, then in a home whose two databases were damaged since."""

import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from sklearn.linear_model import LogisticRegression

from edgewright.locks import locked
from flows.prefect_home import ALIVE

TEXT = b"this is a text, and no database\n" * 5000


def _given(folder: Path) -> None:
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(300, 3)), columns=list("abc"))
    table["label"] = (table["a"] + table["b"] > 0).astype(int)
    model = LogisticRegression().fit(table[list("abc")], table["label"])
    (folder / "model.pkl").write_bytes(pickle.dumps(model))
    table.to_csv(folder / "data.csv", index=False)


def _deploy(folder: Path, *before: str) -> tuple[dict[str, Any], list[str]]:
    """The result of a deployment, and the lines that it said to the user beside it."""
    environment = {
        **os.environ,
        "EDGEWRIGHT_HOME": str(folder / "home"),
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_LOCAL_STORAGE_PATH": str(folder / "results"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
    }
    words = ["model.pkl", "--data", "data.csv", "--target", "label", "--platform", "edge_device", "--json", "r.json"]
    line = [*before, sys.executable, "-m", "edgewright", "deploy", *words, "--recipe", "float32"]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    result: dict[str, Any] = json.loads((folder / "r.json").read_text())
    return result, [said for said in done.stderr.splitlines() if said.startswith("note: ")]


def _await_end_of_server(folder: Path) -> None:
    deadline = time.monotonic() + 60
    ended = False
    while not ended:
        assert time.monotonic() < deadline
        time.sleep(0.2)
        with locked(folder / "prefect" / ALIVE, wait=False) as ended:
            pass


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_deployment_with_64_open_files_and_then_with_damaged_databases(tmp_path: Path) -> None:
    _given(tmp_path)
    first, _ = _deploy(tmp_path, "sh", "-c", 'ulimit -n 64 && exec "$@"', "sh")
    assert first["tracking"]["run_id"]

    _await_end_of_server(tmp_path)
    (tmp_path / "prefect" / "prefect.db").write_bytes(TEXT)
    for log in (tmp_path / "prefect").glob("prefect.db-*"):
        log.unlink()  # SQLite would make the database whole again from it
    whole = (tmp_path / "mlflow.db").read_bytes()
    (tmp_path / "mlflow.db").write_bytes(whole[: len(whole) // 2])
    again, notes = _deploy(tmp_path)

    assert again["status"] == "succeeded"
    assert again["release"] == first["release"]
    assert len(notes) == 2, notes
    assert all("is damaged (" in note and "a new one is made" in note for note in notes)
    assert (tmp_path / "prefect" / "prefect.db.damaged").read_bytes() == TEXT
    assert (tmp_path / "mlflow.db.damaged").read_bytes() == whole[: len(whole) // 2]
    recorded = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").get_run(again["tracking"]["run_id"])
    assert recorded.data.tags["edgewright.complete"] == "true"
