"""A real sshd on loopback stands for the board; the board's own troubles are made there."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from edgewright.artifact import Dataset, Exported
from edgewright.errors import ConversionError, DeviceUnreachableError, InputError
from edgewright.profile import SshConnection, load_device
from edgewright.validate import measure
from edgewright.validate.targets.answers import expect_figures
from edgewright.validate.targets.choice import target_of
from edgewright.validate.targets.shell import ShellTarget
from edgewright.validate.targets.ssh import SshTarget
from edgewright_runtime.bench.answer import BenchFigures, OutputFigures
from edgewright_runtime.bench.run import BenchModel, BenchSpec, read_arrays, write_arrays
from tests.validate.conftest import free_port, keygen

Export = Callable[..., Exported]


@pytest.fixture
def spec(tmp_path: Path, export: Export, weights: np.ndarray) -> BenchSpec:
    rows = tmp_path / "rows.npz"
    write_arrays(rows, {"x": np.ones((3, 16), np.float32)})
    model = BenchModel(str(export(weights).artifact.path), "onnx", ("x",), ("scores",))
    return BenchSpec("outputs", (model,), str(rows), outputs=str(tmp_path / "out.npz"))


def test_outputs_come_back_and_files_are_pushed_once(board: SshConnection, spec: BenchSpec) -> None:
    target = SshTarget(board)
    answer = expect_figures(target.run(spec, "running", 60), OutputFigures, "running")
    assert answer.figures.rows == 3
    scores = read_arrays(Path(spec.outputs))["scores"]
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)
    files = {p: p.stat().st_mtime_ns for p in Path(board.folder, "files").iterdir()}
    target.run(spec, "running", 60)
    assert {p: p.stat().st_mtime_ns for p in Path(board.folder, "files").iterdir()} == files
    assert list(Path(board.folder, "runs").iterdir()) == []


@dataclass(frozen=True)
class Beside(ShellTarget):
    """A device whose shell is this machine's own."""

    folder: str
    name = "a shell"
    _python = sys.executable

    @property
    def _folder(self) -> str:
        return self.folder

    def _carrier(self) -> list[str]:
        return ["sh", "-c"]

    def _lost(self, code: int, stderr: bytes, what: str) -> None:
        return None


@pytest.mark.parametrize("pattern", ["*.onnx", "*.npz", "runtime-*.tar"])
def test_file_that_rotted_there_is_sent_again_and_no_other(tmp_path: Path, spec: BenchSpec, pattern: str) -> None:
    target = Beside(str(tmp_path / "there"))
    target.run(spec, "running", 60)
    files = {p: p.read_bytes() for p in (tmp_path / "there" / "files").iterdir()}
    times = {p: p.stat().st_mtime_ns for p in files}
    (rotten,) = (tmp_path / "there" / "files").glob(pattern)
    rotten.write_bytes(b"!" + files[rotten][1:])

    target.run(spec, "running", 60)

    assert {p: p.read_bytes() for p in (tmp_path / "there" / "files").iterdir()} == files
    assert {p for p in files if p.stat().st_mtime_ns != times[p]} == {rotten}


def test_profile_with_a_board_is_measured_there(
    board: SshConnection, dataset: Dataset, export: Export, weights: np.ndarray
) -> None:
    device = load_device("raspberry_pi_5").model_copy(update={"ssh": board})
    assert target_of(device).name == "127.0.0.1 over SSH"
    model = export(weights)
    found = measure(model, model, dataset, device, min_seconds=0.1, sustained_seconds=0.5)
    assert found.sustained is not None
    assert len(found.sustained.low_ms) == 10
    assert found.sustained.drift > 0
    assert found.target.startswith("127.0.0.1 over SSH")
    assert found.candidate.latency is not None


def test_refused_file_is_named(board: SshConnection, spec: BenchSpec, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    bad = BenchSpec("cold", (BenchModel(str(broken), "onnx"),), spec.rows)
    with pytest.raises(ConversionError, match=r"running: .*cannot load it"):
        SshTarget(board).run(bad, "running", 60)


def test_hang_is_ended_on_the_board(board: SshConnection, spec: BenchSpec) -> None:
    endless = BenchSpec("warm", spec.models, spec.rows, min_seconds=600, max_seconds=600)
    with pytest.raises(ConversionError, match="no answer after 2 s; the process was stopped"):
        SshTarget(board).run(endless, "running", 2)


def test_crash_is_named_by_its_signal(board: SshConnection, spec: BenchSpec, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nkill -SEGV $$\n")
    python.chmod(0o755)
    with pytest.raises(ConversionError, match="ended by SIGSEGV"):
        SshTarget(board.model_copy(update={"python": str(python)})).run(spec, "running", 60)


def test_unreachable_board_may_be_tried_again(board: SshConnection, spec: BenchSpec) -> None:
    away = board.model_copy(update={"port": free_port()})
    with pytest.raises(DeviceUnreachableError, match=r"running: 127.0.0.1 over SSH: .*refused"):
        SshTarget(away).run(spec, "running", 60)


def test_wrong_host_key_is_refused_and_not_retried(board: SshConnection, spec: BenchSpec, tmp_path: Path) -> None:
    keygen(tmp_path / "other")
    trusted = tmp_path / "known_hosts"
    trusted.write_text(f"[127.0.0.1]:{board.port} {(tmp_path / 'other.pub').read_text()}")
    with pytest.raises(InputError, match=r"the host key of 127.0.0.1 over SSH is not the trusted one"):
        SshTarget(board.model_copy(update={"known_hosts": trusted})).run(spec, "running", 60)


def test_wrong_user_key_is_refused(board: SshConnection, spec: BenchSpec, tmp_path: Path) -> None:
    keygen(tmp_path / "stranger")
    with pytest.raises(InputError, match="does not accept the key of user"):
        SshTarget(board.model_copy(update={"key": tmp_path / "stranger"})).run(spec, "running", 60)


def test_full_disk_is_named(board: SshConnection, spec: BenchSpec, tmp_path: Path) -> None:
    """/dev/full stands for the disk: every write to it fails as one to a full disk does."""
    work = tmp_path / "work"
    (work / "files").mkdir(parents=True)
    target = SshTarget(board.model_copy(update={"folder": str(work)}))
    with pytest.raises(ConversionError, match=r"refused a file: .*No space left on device"):
        target._send(b"content" * 10000, "cat > /dev/full", "running")


def test_board_that_reboots_in_the_middle_resumes(board: SshConnection, spec: BenchSpec, tmp_path: Path) -> None:
    """The connection is cut while the bench runs; the next try finds the files that were pushed."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nkill -9 $(ps -o ppid= -p $(ps -o ppid= -p $PPID))\n")
    python.chmod(0o755)
    work = str(tmp_path / "work")
    cut = SshTarget(board.model_copy(update={"python": str(python), "folder": work}))
    with pytest.raises(DeviceUnreachableError):
        cut.run(spec, "running", 60)
    pushed = sorted(p.name for p in Path(work, "files").iterdir())
    assert len(pushed) == 3
    answer = SshTarget(board.model_copy(update={"folder": work})).run(spec, "running", 60)
    assert expect_figures(answer, OutputFigures, "running").figures.rows == 3
    assert sorted(p.name for p in Path(work, "files").iterdir()) == pushed


def test_a_file_name_is_no_command(tmp_path: Path, spec: BenchSpec) -> None:
    model = tmp_path / "m.onnx;touch X;"
    model.write_bytes(Path(spec.models[0].path).read_bytes())
    target = Beside(str(tmp_path / "there"))
    odd = replace(spec, models=(replace(spec.models[0], path=str(model)),))
    for _ in range(2):
        assert expect_figures(target.run(odd, "running", 60), BenchFigures, "running").figures.runtime
    files = sorted(p.name for p in (tmp_path / "there" / "files").iterdir())
    assert not list(tmp_path.rglob("X"))
    assert sum(name.endswith(".onnx;touch X;") for name in files) == 1
    assert target._held(odd, "looking") == set(files)


def test_a_folder_of_the_board_is_quoted_and_its_home_is_not() -> None:
    target = SshTarget(SshConnection(host="board", user="pi", folder="models/ours"))
    assert target._folder == '"$HOME"/models/ours'
