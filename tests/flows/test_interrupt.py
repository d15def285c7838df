"""Ctrl-C and kill -9 in the middle of a run: nothing half-written, and the same command goes on."""

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

from edgewright.artifact import digest_of

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def line(tmp_path: Path) -> list[str]:
    table = load_breast_cancer(as_frame=True).frame
    model = LogisticRegression(max_iter=5000).fit(table.drop(columns="target").to_numpy(), table["target"])
    (tmp_path / "cancer.pkl").write_bytes(pickle.dumps(model))
    table.to_csv(tmp_path / "cancer.csv", index=False)
    words = ["deploy", "cancer.pkl", "--data", "cancer.csv", "--target", "target", "--platform", "edge_device"]
    return [sys.executable, "-m", "edgewright", *words, "--recipe", "float32", "--json", "result.json"]


def _start(line: list[str], folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "EDGEWRIGHT_HOME": str(folder / "home"), "PREFECT_HOME": str(folder / "prefect")}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    environment["PREFECT_LOCAL_STORAGE_PATH"] = str(folder / "results")
    with (folder / "log.txt").open("w") as log:
        return subprocess.Popen(line, cwd=folder, env=environment, stdout=log, stderr=log)


def _stop_orphaned_server(folder: Path) -> None:
    """Prefect's embedded server outlives a kill -9 of the run that started it; this one is the test's own."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"PREFECT_HOME={folder / 'prefect'}".encode() in (process / "environ").read_bytes():
                os.kill(int(process.name), signal.SIGTERM)


def _objects(folder: Path) -> list[Path]:
    return sorted((folder / "home" / "objects").glob("*/*/*"))


@pytest.mark.parametrize(
    "sign", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)], ids=lambda s: s.name
)
def test_a_run_that_is_cut_off_goes_on_where_it_was(line: list[str], tmp_path: Path, sign: signal.Signals) -> None:
    cut = _start(line, tmp_path)
    deadline = time.monotonic() + 150
    # Intake's work is done and kept; the export, or what comes after it, runs now.
    while not list((tmp_path / "results").glob("take_in-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    cut.send_signal(sign)
    cut.wait(60)
    said = (tmp_path / "log.txt").read_text()
    _stop_orphaned_server(tmp_path)
    assert cut.returncode == (130 if sign is signal.SIGINT else -signal.SIGKILL), said
    if sign is signal.SIGINT:
        assert "the same command goes on where it stopped" in said
        assert "Traceback" not in said
    assert not (tmp_path / "result.json").exists()
    kept = _objects(tmp_path)
    assert kept
    assert [path for path in kept if digest_of(path) != path.parent.name] == []
    written = {path: path.stat().st_mtime_ns for path in kept}

    again = _start(line, tmp_path)
    again.wait(200)
    assert again.returncode == 0, (tmp_path / "log.txt").read_text()
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "succeeded"
    assert {path: path.stat().st_mtime_ns for path in kept} == written

    over = _start([*line, "--max-size-mb", "0.000001"], tmp_path)
    over.wait(200)
    assert over.returncode == 2
    assert "misses its limit of 1e-06 MB" in (tmp_path / "log.txt").read_text()
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "failed"
