"""A deployment whose Prefect and MLflow keep their data in PostgreSQL, which restarts, or goes, in the middle of it."""

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import psycopg2
import pytest
from mlflow import MlflowClient
from sklearn.linear_model import LogisticRegression

from tests.cloud.postgres import Postgres, controlled_postgres, postgres_binaries

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TRACKING = "Recording the run in MLflow"

# Asks the test, which has the server in its hand, when a stage or step begins, and waits for its answer.
_ASKING = """
import sys, time
from pathlib import Path
from edgewright.pipeline.cli import main
from edgewright.progress import progress

at, asked, answered = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
del sys.argv[1:4]

def ask(event):
    if event.title == at and not event.done and not asked.exists():
        asked.touch()
        while not answered.exists():
            time.sleep(0.05)

with progress.listening(ask):
    main()
"""


class Ended(NamedTuple):
    code: int
    lines: list[str]
    result: dict[str, Any]


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    if postgres_binaries() is None:
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    with controlled_postgres() as server:
        # Prefect and MLflow each keep the version of their tables in a table of the same name.
        connection = psycopg2.connect(server.url.replace("+psycopg2", ""))
        connection.autocommit = True
        connection.cursor().execute("CREATE DATABASE tracking")
        connection.close()
        yield server


@pytest.fixture
def environment(postgres: Postgres, tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "EDGEWRIGHT_HOME": str(tmp_path / "home"),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_LOCAL_STORAGE_PATH": str(tmp_path / "results"),
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_API_DATABASE_CONNECTION_URL": postgres.url.replace("psycopg2", "asyncpg"),
        "MLFLOW_TRACKING_URI": tracking_url(postgres),
    }


def tracking_url(postgres: Postgres) -> str:
    return postgres.url.replace("/postgres", "/tracking")


def deploy(folder: Path, environment: dict[str, str], at: str = "", act: Callable[[], None] | None = None) -> Ended:
    """Deploy, and act when this stage or step begins; without its orchestrator a run ends with no result."""
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(300, 3)), columns=list("abc"))
    table["label"] = (table["a"] + table["b"] > 0).astype(int)
    model = LogisticRegression().fit(table[list("abc")], table["label"])
    (folder / "model.pkl").write_bytes(pickle.dumps(model))
    table.to_csv(folder / "data.csv", index=False)
    asked, answered = folder / "asked", folder / "answered"
    result = folder / "r.json"
    for file in (asked, answered, result):
        file.unlink(missing_ok=True)
    words = ["model.pkl", "--data", "data.csv", "--target", "label", "--platform", "edge_device", "--json", "r.json"]
    line = [sys.executable, "-c", _ASKING, at, str(asked), str(answered), "deploy", *words, "--recipe", "float32"]
    with (folder / "said").open("w") as said:
        run = subprocess.Popen(line, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=said)
        while act and not asked.exists():
            assert run.poll() is None, (folder / "said").read_text()
            time.sleep(0.05)
        if act:
            act()
            answered.touch()
        code = run.wait(600)
    lines = [text for text in (folder / "said").read_text().splitlines() if text.strip()]
    return Ended(code, lines, json.loads(result.read_text()) if result.exists() else {})


def is_recorded(postgres: Postgres, ended: Ended) -> bool:
    run = MlflowClient(tracking_url(postgres)).get_run(ended.result["tracking"]["run_id"])
    return run.data.tags["edgewright.complete"] == "true"


@pytest.mark.parametrize("at", ["validate", TRACKING])
def test_run_outlives_a_restart_of_the_database(
    postgres: Postgres, environment: dict[str, str], tmp_path: Path, at: str
) -> None:
    ended = deploy(tmp_path, environment, at, lambda: postgres.control("restart"))

    assert (ended.code, ended.lines) == (0, [])
    assert ended.result["status"] == "succeeded"
    assert is_recorded(postgres, ended)


def test_run_without_its_database_is_one_line_and_goes_on_once_it_is_back(
    postgres: Postgres, environment: dict[str, str], tmp_path: Path
) -> None:
    impatient = {**environment, "PREFECT_CLIENT_MAX_RETRIES": "0"}
    without = deploy(tmp_path, impatient, "validate", lambda: postgres.control("stop"))
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "home" / "objects").rglob("*") if path.is_file()}

    assert without.code == 1
    assert len(without.lines) == 1, without.lines
    assert "the Prefect server at 127.0.0.1:" in without.lines[0]
    assert without.lines[0].endswith("and the same command goes on where it stopped")
    assert kept
    assert list((tmp_path / "home" / "tracking").glob("*.json"))

    postgres.control("start")
    again = deploy(tmp_path, environment)
    assert (again.code, again.lines) == (0, [])
    assert again.result["status"] == "succeeded"
    assert is_recorded(postgres, again)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert not list((tmp_path / "home" / "tracking").glob("*.json"))


def test_tracking_database_that_is_away_is_told_at_once_and_its_record_waits(
    postgres: Postgres, environment: dict[str, str], tmp_path: Path
) -> None:
    own = {name: value for name, value in environment.items() if name != "PREFECT_API_DATABASE_CONNECTION_URL"}
    released = deploy(tmp_path, own, TRACKING, lambda: postgres.control("stop"))

    assert (released.code, released.lines) == (0, [])
    assert released.result["status"] == "succeeded"
    assert released.result["tracking"]["run_id"] is None
    assert Path(released.result["tracking"]["pending"]).exists()

    postgres.control("start")
    again = deploy(tmp_path, own)
    assert is_recorded(postgres, again)
    assert not list((tmp_path / "home" / "tracking").glob("*.json"))
