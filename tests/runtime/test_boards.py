"""The runtime's wheel on what boards have: 64-bit Arm (emulated), and Python 3.9 (a real interpreter)."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgewright_runtime
from edgewright.package import Bundle
from edgewright.release import publish
from edgewright.validate.targets import arm_system
from edgewright_runtime.predict.predictor import Predictor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PACKAGE = Path(edgewright_runtime.__file__).parent
Board = Callable[..., Any]


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    pytest.importorskip("hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "wheel")]
    subprocess.run(build, check=True, capture_output=True, cwd=PACKAGE)
    return next((tmp_path / "wheel").glob("edgewright_runtime-*.whl"))


def uv(*arguments: str | Path) -> None:
    """uv pip install; a registry that cannot be reached is no fault of ours."""
    program = shutil.which("uv") or Path(sys.executable).with_name("uv")
    done = subprocess.run([program, "pip", "install", "-q", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"uv cannot install: {done.stderr.strip().splitlines()[-1][:200]}")


def commands(interpreter: Path, environment: dict[str, str], folder: Path) -> Board:
    def run(*arguments: str | Path) -> Any:
        command = [interpreter, "-m", "edgewright_runtime", *arguments, "--root", folder / "device"]
        done = subprocess.run(
            [str(a) for a in command], env=environment, cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def lives_there(run: Board, tmp_path: Path, table_bundle: Bundle, newer_bundle: Bundle) -> None:
    """Install, predict, update, roll back and tell the status, as the README says."""
    repository, example = tmp_path / "repository", table_bundle.artifact.path / "example.json"
    publish(table_bundle, str(repository), "stable")
    assert run("install", repository)["installed"]["release"] == "churn.edge_device.stable.1"
    publish(newer_bundle, str(repository), "stable")
    assert run("install", repository)["installed"]["release"] == "churn.edge_device.stable.2"
    assert run("rollback")["installed"]["release"] == "churn.edge_device.stable.1"
    status = run("status")
    answer = run("predict", example)

    assert (status["current"]["release"], status["releases"]) == (
        "churn.edge_device.stable.1",
        ["churn.edge_device.stable.1", "churn.edge_device.stable.2"],
    )
    here = Predictor(table_bundle.artifact.path).predict(json.loads(example.read_text()))
    np.testing.assert_allclose(answer["scores"], here.scores, atol=1e-6)
    assert tuple(answer["labels"]) == here.labels


def as_cortex_a72(system: Path, folder: Path) -> Path:
    """The root file system with an Arm core's /proc/cpuinfo: ONNX Runtime reads it when it is imported."""
    (folder / "proc").mkdir(parents=True)
    (folder / "proc/cpuinfo").write_text(
        "processor\t: 0\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid\nCPU implementer\t: 0x41\n"
        "CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n"
    )
    for name in ("usr", "bin", "lib", "etc", "opt"):
        (folder / name).symlink_to(system / name)
    return folder


def test_aarch64(wheel: Path, tmp_path: Path, table_bundle: Bundle, newer_bundle: Bundle) -> None:
    if reason := arm_system.missing_tools():
        pytest.skip(reason)
    system = arm_system.set_up("arm64")
    platform = ["--python-platform", "aarch64-manylinux_2_28", "--python-version", "3.11"]
    uv("--no-deps", "--target", tmp_path / "site", *platform, wheel)
    # The golden vectors' child must be emulated too: without binfmt_misc the kernel cannot start an Arm program.
    python = tmp_path / "python3"
    board = as_cortex_a72(system, tmp_path / "board")
    python.write_text(f'#!/bin/sh\nexec qemu-aarch64 -cpu cortex-a72 -L {board} {board}/usr/bin/python3 "$@"\n')
    python.chmod(0o755)
    (tmp_path / "site/sitecustomize.py").write_text(f"import sys\nsys.executable = {str(python)!r}\n")
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{tmp_path / 'site'}:{system / 'opt/rt'}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    machine = subprocess.run(
        [str(python), "-c", "import platform; print(platform.machine())"], capture_output=True, text=True, check=True
    )
    assert machine.stdout == "aarch64\n"

    lives_there(commands(python, environment, tmp_path), tmp_path, table_bundle, newer_bundle)


def _python_3_9() -> str | None:
    pyenv = sorted(Path.home().glob(".pyenv/versions/3.9*/bin/python3.9"))
    return str(pyenv[-1]) if pyenv else shutil.which("python3.9")


def test_python_3_9(wheel: Path, tmp_path: Path, table_bundle: Bundle, newer_bundle: Bundle) -> None:
    interpreter = _python_3_9()
    if interpreter is None:
        pytest.skip("no Python 3.9 here; for example: uv python install 3.9")
    subprocess.run([interpreter, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv/bin/python"
    uv("--python", python, f"{wheel}[onnx,monitor,zstd]")

    lives_there(commands(python, {"PATH": os.environ["PATH"]}, tmp_path), tmp_path, table_bundle, newer_bundle)
    modules = sorted(".".join(m.relative_to(PACKAGE.parent).with_suffix("").parts) for m in PACKAGE.rglob("*.py"))
    loadable = [m for m in modules if not m.endswith("__main__") and m != "edgewright_runtime.backends.litert"]
    done = subprocess.run(
        [python, "-c", f"import {', '.join(loadable)}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
