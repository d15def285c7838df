"""The wheel in an environment that has no checkout: what it brings is all there is of the project."""

import json
import pickle
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from edgewright.package import Bundle

CHECKOUT = Path(__file__).parents[2]
Commands = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, check=True, capture_output=True, cwd=CHECKOUT)
    return next(folder.glob("edgewright-*.whl"))


def _environment(folder: Path, *packages: str | Path) -> Path:
    """A virtual environment with these packages alone; the test skips where a registry cannot be reached."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    uv = shutil.which("uv") or Path(sys.executable).with_name("uv")
    line = [uv, "pip", "install", "-q", "--python", folder / "bin" / "python", *packages]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"uv cannot install: {done.stderr.strip().splitlines()[-1][:200]}")
    return folder


def _commands(environment: Path, home: Path) -> Commands:
    variables = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "COLUMNS": "200",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        line = [environment / "bin" / "edgewright", *words]
        return subprocess.run(line, cwd=home, env=variables, capture_output=True, text=True, check=False, timeout=280)

    return run


def test_the_base_reads_profiles_and_bundles(wheel: Path, tmp_path: Path, table_bundle: Bundle) -> None:
    run = _commands(_environment(tmp_path / "base", wheel), tmp_path)
    assert run("--help").returncode == 0
    assert "generic_android" in run("profiles", "list").stdout
    shown = run("inspect", table_bundle.artifact.path)
    assert shown.returncode == 0, shown.stderr
    assert "No module named 'onnx'" in shown.stdout
    model = table_bundle.artifact.path / "churn.onnx"
    refused = run("inspect", model)
    assert refused.returncode == 1
    assert "No module named 'onnx'; edgewright[all] has every library" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    project = subprocess.run(
        [tmp_path / "base" / "bin" / "python", "-m", "edgewright.project"], capture_output=True, text=True, check=True
    )
    assert {"constraints.txt", "overrides.txt"} <= {path.name for path in Path(project.stdout.strip()).iterdir()}


def test_the_pipeline_runs_from_the_wheel_in_any_folder(wheel: Path, tmp_path: Path) -> None:
    environment = _environment(tmp_path / "all", "--no-deps", wheel)
    # The libraries of this environment are lent; the .pth files among them, such as the checkout's, are not read.
    (next((environment / "lib").glob("python*/site-packages")) / "lent.pth").write_text(sysconfig.get_path("purelib"))
    run = _commands(environment, tmp_path)
    table = load_iris(as_frame=True).frame
    model = LogisticRegression(max_iter=500).fit(table.drop(columns="target"), table["target"])
    (tmp_path / "iris.pkl").write_bytes(pickle.dumps(model))
    table.to_csv(tmp_path / "iris.csv", index=False)
    asked = ["--data", "iris.csv", "--target", "target", "--platform", "edge_device", "--recipe", "float32"]

    done = run("deploy", "iris.pkl", *asked, "--json", "result.json")

    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "succeeded"
    assert str(CHECKOUT) not in (tmp_path / "result.json").read_text()
    assert (tmp_path / ".edgewright" / "releases").is_dir()
