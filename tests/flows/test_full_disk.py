"""A disk that is full when a stage begins: one line, nothing half-written, and the same run goes on with room."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from edgewright.pipeline.result import DeploymentResult
from edgewright.pipeline.stages import STAGES
from edgewright.progress import Announcement, progress
from edgewright.store import Store
from edgewright.upkeep import check_home
from edgewright_runtime.errors import EdgeRuntimeError
from edgewright_runtime.update.updater import Updater
from flows.edge_deployment import deploy
from tasks.tracking import pending_records
from tests.small_disk import fill, mounted

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

TRACKING = "Recording the run in MLflow"
# Stages and steps at whose begin the disk is full, in their order, with the number of stages that are done by then.
FULL_AT = {
    "optimize": 0,
    "Taking in the model and its data": 0,
    "Exporting to the platform's format": 0,
    "validate": 1,
    "Checking accuracy and parity on real rows": 1,
    "Measuring latency and memory": 1,
    "package": 2,
    "deploy": 3,
}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home alone is on it: Prefect's database, and its results, have room elsewhere."""
    with (
        mounted(tmp_path_factory.mktemp("full") / "disk", megabytes=30) as mount,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("EDGEWRIGHT_HOME", str(mount / "home"))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{mount / 'home' / 'mlflow' / 'mlflow.db'}")
        patch.setattr("tasks.caching._RETRY_DELAYS_S", [0.0, 0.0])
        yield mount


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("given")
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(300, 3)), columns=list("abc"))
    table["label"] = (table["a"] + table["b"] > 0).astype(int)
    model = LogisticRegression().fit(table[list("abc")], table["label"])
    (folder / "model.pkl").write_bytes(pickle.dumps(model))
    table.to_csv(folder / "data.csv", index=False)
    given = {"model": folder / "model.pkl", "data": folder / "data.csv", "target": "label"}
    return {**given, "platform": "edge_device", "recipe": "float32"}


def deployed_with_full_disk(disk: Path, asked: dict[str, Any], at: str) -> DeploymentResult:
    """Deploy; the disk is filled when this stage or step begins, and has room again afterwards."""

    def listener(event: Announcement) -> None:
        if event.title == at and not event.done:
            fill(disk)

    try:
        with progress.listening(listener):
            return deploy(**asked)
    finally:
        (disk / "ballast").unlink(missing_ok=True)


def installed(disk: Path, device: Path) -> str | None:
    """What a device installs from the home's repository."""
    found = Updater(str(disk / "home" / "releases"), "stable", device).update().installed
    return found.name if found else None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_stage_on_a_full_disk_goes_on_once_there_is_room(
    disk: Path, asked: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for at, done in FULL_AT.items():
        failed = deployed_with_full_disk(disk, asked, at)

        assert failed.completed_stages == STAGES[:done]
        assert "No space left on device" in str(failed.error)
        assert len(str(failed.error).splitlines()) == 1
        (unrecorded,) = (note for note in failed.notes if "not in MLflow" in note)
        assert unrecorded.endswith("free some room there, and the same command goes on where it stopped")
        assert check_home(Store()).damaged == ()
        assert list((disk / "home").rglob(".*.????????")) == []  # of `replace_file`
        with pytest.raises(EdgeRuntimeError, match=r"lines.json: cannot be read"):
            installed(disk, tmp_path / "device")

    # With the release out, nothing is left that needs room but the record.
    released = deployed_with_full_disk(disk, asked, "monitor")
    assert (released.status, released.completed_stages) == ("succeeded", STAGES)
    assert installed(disk, tmp_path / "early") == "model.edge_device.stable.1"

    released = deployed_with_full_disk(disk, asked, TRACKING)
    assert (released.status, released.completed_stages) == ("succeeded", STAGES)
    assert released.tracking is not None
    assert [str(path) for path in pending_records()] == [released.tracking.pending]
    assert installed(disk, tmp_path / "device") == "model.edge_device.stable.1"

    again = deploy(**asked)
    assert again.release == released.release
    assert again.tracking is not None
    assert again.tracking.run_id is not None
    assert pending_records() == []
    assert again.bundle is not None
    assert again.bundle.artifact == released.bundle.artifact
    assert check_home(Store()).damaged == ()
    assert "not foreseen" not in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_disk_that_fills_up_under_the_orchestrator_is_one_line(tmp_path: Path, asked: dict[str, Any]) -> None:
    """Prefect's server answers 500 then, to the stage and to the run's own end."""
    with mounted(tmp_path / "disk", megabytes=40) as disk:
        environment = {**os.environ, "EDGEWRIGHT_HOME": str(disk / "home"), "PREFECT_HOME": str(disk / "prefect")}
        environment |= {"PREFECT_LOGGING_LEVEL": "CRITICAL", "PREFECT_LOGGING_TO_API_ENABLED": "true"}
        words = ["deploy", str(asked["model"]), "--data", str(asked["data"]), "--target", "label"]
        words += ["--platform", "edge_device", "--recipe", "float32", "--json", str(tmp_path / "result.json")]
        command = [sys.executable, "-c", _FILLING, str(disk), "validate", *words]

        full = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        (disk / "ballast").unlink()
        command[4] = "no stage"
        again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    said = [line for line in full.stderr.splitlines() if line.strip()]
    assert full.returncode == 1
    assert len(said) == 1, said
    assert "No space left on device; free some room there, and the same command goes on" in said[0]
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "succeeded"


_FILLING = """
import sys
from pathlib import Path
from edgewright.pipeline.cli import main
from edgewright.progress import progress
from tests.small_disk import fill

disk, stage = sys.argv[1:3]
del sys.argv[1:3]
with progress.listening(lambda event: fill(Path(disk)) if event.title == stage and not event.done else None):
    main()
"""
