"""The command line as a user has it: a process, its exit code, its words."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from typer.testing import CliRunner

from edgewright.pipeline.cli import app

RUN = (sys.executable, "-m", "edgewright.pipeline.cli")


def edgewright(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "EDGEWRIGHT_HOME": str(cwd / "home"), "COLUMNS": "200", "NO_COLOR": "1"}
    line = [*RUN, *(str(word) for word in words)]
    return subprocess.run(line, capture_output=True, text=True, check=False, cwd=cwd, env=environment, timeout=280)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A folder with a model, its table, and spoilt variants of both."""
    generator = np.random.default_rng(0)
    table = pd.DataFrame(generator.normal(size=(120, 3)), columns=["a", "b", "c"])
    table["label"] = (table["a"] + table["b"] > 0).astype(int)
    model = LogisticRegression().fit(table[["a", "b", "c"]], table["label"])
    content = pickle.dumps(model)
    (tmp_path / "model.pkl").write_bytes(content)
    (tmp_path / "truncated.pkl").write_bytes(content[: len(content) // 2])
    (tmp_path / "hostile.pkl").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    (tmp_path / "words.pkl").write_bytes(b"these are only words")
    (tmp_path / "words.bin").write_bytes(b"these are only words")
    table.to_csv(tmp_path / "data.csv", index=False)
    holes = table.copy()
    holes.loc[7, "b"] = np.nan
    holes.to_csv(tmp_path / "holes.csv", index=False)
    table.drop(columns="b").to_csv(tmp_path / "narrow.csv", index=False)
    x, y = table[["a", "b", "c"]].to_numpy(), table["label"].to_numpy()
    np.savez(tmp_path / "uneven.npz", x=x, y=y[:-3])
    np.savez(tmp_path / "wide.npz", x=np.hstack([x, x]), y=y)
    (tmp_path / "misspelt.yaml").write_text("path: data.csv\ntarget: label\nscael: 2\n")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "empty.csv").write_text("")
    return tmp_path


BASE = ["deploy", "model.pkl", "--data", "data.csv", "--target", "label", "--platform", "android"]


def _changed(**changes: str) -> list[str]:
    line = BASE.copy()
    for option, value in changes.items():
        flag = f"--{option.replace('_', '-')}"
        if option == "model":
            line[1] = value
        elif flag in line:
            line[line.index(flag) + 1] = value
        else:
            line += [flag, value]
    return line


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (_changed(model="absent.pkl"), "absent.pkl: no such file"),
        (_changed(model="words.bin"), "words.bin"),
        (_changed(model="words.pkl"), "words.pkl"),
        (_changed(model="truncated.pkl"), "truncated.pkl"),
        (_changed(model="hostile.pkl"), "system"),
        (_changed(data="absent.csv"), "absent.csv: no such file"),
        (_changed(data="folder.csv"), "folder.csv"),
        (_changed(data="empty.csv"), "empty.csv"),
        (_changed(data="misspelt.yaml"), "did you mean 'scale'?"),
        (_changed(target="lable"), "lable"),
        (_changed(data="holes.csv"), "'b'"),
        (_changed(data="narrow.csv"), "'b'"),
        (_changed(data="uneven.npz", target="y"), "120"),
        (_changed(data="wide.npz", target="y"), "6"),
        (_changed(platform="windows"), "'--platform': 'windows' is not one of 'ios'"),
        (_changed(device="nokia_3310"), "unknown device 'nokia_3310'"),
        (_changed(recipe="magic"), "unknown recipe 'magic'"),
        (_changed(max_latency_ms="0"), "above zero"),
        (_changed(max_latency_ms="fast"), "--max-latency-ms"),
        (_changed(max_size_mb="-1"), "above zero"),
        (_changed(name="a/b"), "model name 'a/b'"),
        (_changed(name=""), "model name ''"),
        (_changed(channel="Stable"), "channel 'Stable'"),
        ([*BASE, "--frobnicate"], "--frobnicate"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_one_line_and_writes_nothing(good: Path, line: list[str], says: str) -> None:
    before = sorted(good.rglob("*"))
    done = edgewright(*line, cwd=good)
    assert done.returncode == 1, done.stderr
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stdout == ""
    assert sorted(good.rglob("*")) == before


def test_validate_refuses_what_is_no_bundle_or_no_device_in_one_line(tmp_path: Path) -> None:
    for line, said in (
        (("validate", str(tmp_path), "--device", "nothing"), "unknown device 'nothing'"),
        (("validate", str(tmp_path), "--device", "raspberry_pi_5"), f"bundle {tmp_path}"),
    ):
        done = edgewright(*line, cwd=tmp_path)
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_profiles_are_listed_and_shown(tmp_path: Path) -> None:
    assert "generic_android" in edgewright("profiles", "list", cwd=tmp_path).stdout
    shown = edgewright("profiles", "show", "raspberry_pi_5", cwd=tmp_path).stdout
    assert "cortex-a76" in shown
    assert "budget.max_latency_ms" in shown
    assert "ssh.known_hosts" in shown
    assert "whole number > 0" in shown
    assert edgewright("profiles", "show", "nothing", cwd=tmp_path).returncode == 1


def test_help_needs_no_framework(tmp_path: Path) -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from edgewright.pipeline.cli import app;"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0;"
        "print(sorted({'torch', 'onnx', 'prefect', 'mlflow', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_cloud_without_a_command_serves(monkeypatch):
    served = []
    monkeypatch.setattr("edgewright.cloud.serve.serve", lambda **options: served.append(options))
    assert CliRunner().invoke(app, ["cloud"]).exit_code == 0
    assert served == [
        {
            "database": None,
            "repository": None,
            "bundles": None,
            "host": "127.0.0.1",
            "port": 8100,
        }
    ]


def test_help_imports_no_numerical_library() -> None:
    heavy = {"numpy", "pandas", "fsspec", "scipy", "torch", "prefect", "mlflow", "fastapi", "sqlalchemy"}
    code = f"import sys, edgewright.pipeline.cli; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
