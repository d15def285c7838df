"""`edgewright ui` as a user has it: servers up, deployments registered, a run from the form, Ctrl-C."""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Servers:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prefect, self.mlflow = _free_port(), _free_port()
        self.log = folder / "ui.log"
        environment = {**os.environ, "EDGEWRIGHT_HOME": str(folder / "home"), "PREFECT_HOME": str(folder / "prefect")}
        # Its own results, too: those of another test would name files in that test's home.
        environment["PREFECT_LOCAL_STORAGE_PATH"] = str(folder / "results")
        environment["PREFECT_WORKER_QUERY_SECONDS"] = "1"
        line = [sys.executable, "-m", "edgewright", "ui"]
        line += ["--prefect-port", str(self.prefect), "--mlflow-port", str(self.mlflow)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(line, env=environment, stdout=log, stderr=log, cwd=folder)

    def ready(self) -> bool:
        return "Ctrl-C stops" in self.log.read_text()

    def call(self, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.prefect}/api{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        # Prefect answers 503 while SQLite is locked, and its own clients ask again.
        for _ in range(10):
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                    return json.loads(answer.read())
            except urllib.error.HTTPError as e:
                if e.code != 503:
                    raise
            time.sleep(1)
        raise TimeoutError(path)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    started = Servers(tmp_path_factory.mktemp("ui"))
    deadline = time.monotonic() + 200
    while not started.ready() and started.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.5)
    assert started.ready(), started.log.read_text()
    yield started
    if started.process.poll() is None:
        started.process.kill()
        started.process.wait()


def test_deployments_are_registered_and_paused(servers: Servers) -> None:
    found = {d["name"]: d for d in servers.call("/deployments/filter", {})}
    assert set(found) == {"deploy", "monitor", "rollback", "validate"}
    assert [s["active"] for d in found.values() for s in d["schedules"]] == [False, False]


def test_wrong_parameter_is_refused_by_name(servers: Servers) -> None:
    deployment = servers.call("/deployments/name/edge-deployment/deploy")
    asked = {"parameters": {"model": "m.pkl", "data": "d.csv", "platform": "windows"}}
    with pytest.raises(urllib.error.HTTPError) as refused:
        servers.call(f"/deployments/{deployment['id']}/create_flow_run", asked)
    assert refused.value.code == 409
    assert "platform" in refused.value.read().decode()


def test_a_run_started_from_the_form_ends_in_mlflow(servers: Servers) -> None:
    table = load_breast_cancer(as_frame=True).frame
    model = LogisticRegression(max_iter=5000).fit(table.drop(columns="target").to_numpy(), table["target"])
    (servers.folder / "cancer.pkl").write_bytes(pickle.dumps(model))
    table.to_csv(servers.folder / "cancer.csv", index=False)
    deployment = servers.call("/deployments/name/edge-deployment/deploy")
    asked = {
        "model": str(servers.folder / "cancer.pkl"),
        "data": str(servers.folder / "cancer.csv"),
        "target": "target",
        "platform": "edge_device",
        "recipe": "float32",
    }
    run = servers.call(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": asked})
    _await_completed(servers, run["id"])
    shown = {a["type"] for a in servers.call("/artifacts/filter", {}) if a["key"]}
    assert shown == {"table", "markdown"}
    client = MlflowClient(f"http://127.0.0.1:{servers.mlflow}")
    experiment = client.get_experiment_by_name("edgewright")
    tags = [r.data.tags.get("deployment_id") for r in client.search_runs([experiment.experiment_id])]
    assert run["id"] in tags


def _await_completed(servers: Servers, run: str) -> None:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        state = servers.call(f"/flow_runs/{run}")["state"]
        if state["type"] in {"COMPLETED", "FAILED", "CRASHED"}:
            break
        time.sleep(1)
    assert state["type"] == "COMPLETED", state


def test_a_released_bundle_is_validated_from_the_form(servers: Servers) -> None:
    manifests = list((servers.folder / "home").glob("**/manifest.json"))
    assert manifests, "the run before this one made a bundle"
    deployment = servers.call("/deployments/name/validate-bundle/validate")
    # The second device takes another format: refused at once, and it does not stop the first.
    asked = {"bundle": str(manifests[0].parent), "devices": ["generic_edge_device", "pixel_8"], "quick": True}
    with pytest.raises(urllib.error.HTTPError) as refused:
        servers.call(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": {**asked, "devices": []}})
    assert refused.value.code == 409
    assert "devices" in refused.value.read().decode()
    run = servers.call(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": asked})
    _await_completed(servers, run["id"])
    (shown,) = [a for a in servers.call("/artifacts/filter", {}) if a["key"] == "bundle-on-devices"]
    assert "passed on 1 of 2 devices" in shown["description"]
    verdicts = {row["device"]: row["verdict"] for row in json.loads(shown["data"])}
    assert verdicts["generic_edge_device"] == "passed"
    assert "pixel_8 takes tflite files" in verdicts["pixel_8"]


def test_ctrl_c_stops_everything(servers: Servers) -> None:
    servers.process.send_signal(signal.SIGINT)
    assert servers.process.wait(60) == 0
    assert "All stopped." in servers.log.read_text()
    for port in (servers.prefect, servers.mlflow):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
