"""What the machine lacks is one line that says what to do, for every command that needs it."""

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewright.errors import InputError
from edgewright.locks import locked
from edgewright.shortage import require_processes, require_writable, shortage_of
from tests.small_disk import fill, mounted, read_only

COMMANDS = [
    ["deploy", "model.pkl", "--data", "data.csv", "--target", "label", "--platform", "edge_device"],
    ["ui"],
    ["store", "gc", "--max-gb", "1"],
    ["cloud", "add-device", "board"],
]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", megabytes=2) as mount:
        yield mount


@pytest.fixture
def unwritable(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder that this user cannot write; no mode keeps root from it."""
    if not os.geteuid():
        disk: Path = request.getfixturevalue("disk")
        read_only(disk)
        return disk
    (tmp_path / "closed").mkdir(mode=0o500)
    return tmp_path / "closed"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data.csv").write_text("a,label\n" + "0.5,1\n-0.5,0\n" * 40)
    import pickle

    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit([[0.5], [-0.5]] * 4, [1, 0] * 4)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    return tmp_path


@pytest.mark.parametrize("home", ["", "home"], ids=["there", "to be made"])
@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[:2]))
def test_read_only_home_is_one_line_and_exit_code_1(
    unwritable: Path, folder: Path, words: list[str], home: str
) -> None:
    environment = {**os.environ, "EDGEWRIGHT_HOME": str(unwritable / home)}

    line = [sys.executable, "-m", "edgewright", *words]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    said = [text for text in done.stderr.splitlines() if text.strip()]
    assert done.returncode == 1, done.stderr
    assert len(said) == 1, said
    assert str(unwritable) in said[0]
    assert "Read-only file system" in said[0] or "Permission denied" in said[0]
    assert "or set EDGEWRIGHT_HOME to" in said[0]


def few_processes(limit: int) -> list[str]:
    """The beginning of a command whose user has so many processes at most, itself among them."""
    # Root is not bounded: a number that nobody else has stands for a user, who may read the checkout all the same.
    number, rights = 2_000_000 + os.getpid(), "+dac_override,+dac_read_search"
    user = ["setpriv", f"--reuid={number}", "--clear-groups", f"--inh-caps={rights}", f"--ambient-caps={rights}"]
    return ["prlimit", f"--nproc={limit}:{limit}", *(() if os.geteuid() else user)]


@pytest.mark.skipif(not shutil.which("prlimit"), reason="util-linux is not there")
@pytest.mark.parametrize("limit", [1, 20])
@pytest.mark.parametrize("words", [*COMMANDS, ["inspect", "model.pkl"]], ids=lambda words: " ".join(words[:2]))
def test_too_few_processes_are_one_line_before_any_work(folder: Path, words: list[str], limit: int) -> None:
    environment = {**os.environ, "EDGEWRIGHT_HOME": str(folder / "home")}

    line = [*few_processes(limit), sys.executable, "-m", "edgewright", *words]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    said = [text for text in done.stderr.splitlines() if text.strip()]
    assert done.returncode == 1, done.stderr
    assert len(said) == 1, said
    assert "error too few processes: " in said[0]
    assert "or raise the limit (`ulimit -u`, or the container's)" in said[0]
    assert not (folder / "home").exists()


def test_threads_that_were_counted_are_gone() -> None:
    before = threading.active_count()
    require_processes()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    "error", [RuntimeError("can't start new thread"), BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))]
)
def test_lack_of_processes_in_the_middle_of_the_work_is_told(error: Exception) -> None:
    wrapper = RuntimeError("a stage failed")
    wrapper.__cause__ = error
    assert str(shortage_of(wrapper)).startswith("too few processes: no more are allowed now")


def test_failure_beside_another_s_lock_is_no_lack_of_processes(tmp_path: Path) -> None:
    def fail_beside(lock: Path) -> None:
        with locked(lock, wait=False):
            raise ValueError("what went wrong")

    with locked(tmp_path / "lock"), pytest.raises(ValueError, match="what went wrong") as failed:
        fail_beside(tmp_path / "lock")
    assert shortage_of(failed.value) is None


def test_home_that_is_made_or_written_leaves_no_trace(tmp_path: Path) -> None:
    require_writable(tmp_path / "new" / "home")
    assert list((tmp_path / "new" / "home").iterdir()) == []


def test_home_where_a_file_stands_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file.* cannot be used: .*; set EDGEWRIGHT_HOME"):
        require_writable(tmp_path / "file" / "home")


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "/disk/file: No space left on device; free some room there, and the same command goes on"),
        (errno.EDQUOT, "free some room there"),
        (errno.EACCES, "/disk/file: Permission denied; give this user the right to use it"),
        (errno.EROFS, "/disk/file cannot be written: Read-only file system; make it writable"),
        (errno.EMFILE, r"Too many open files: \d+ are allowed, 256 are enough; `ulimit -n 256` first"),
    ],
)
def test_the_lack_is_found_below_what_wraps_it(number: int, says: str) -> None:
    error = RuntimeError("a converter failed")
    error.__cause__ = ValueError("while it wrote")
    error.__cause__.__context__ = OSError(number, os.strerror(number), "/disk/file")
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(shortage_of(error))


@pytest.mark.parametrize(
    ("path", "setting"),
    [
        ("home/prefect/x", "EDGEWRIGHT_HOME"),
        ("prefect/prefect.db", "PREFECT_HOME"),
        ("prefect/results/x", "PREFECT_LOCAL_STORAGE_PATH"),
        ("tmp/x", "TMPDIR"),
        ("elsewhere", "EDGEWRIGHT_HOME"),
    ],
)
def test_the_setting_that_is_named_chooses_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, setting: str
) -> None:
    monkeypatch.setenv("EDGEWRIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("PREFECT_LOCAL_STORAGE_PATH", str(tmp_path / "prefect" / "results"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    for number in (errno.EROFS, errno.EACCES):
        said = shortage_of(OSError(number, os.strerror(number), str(tmp_path / path)))
        assert f"or set {setting} to" in str(said)


def test_what_is_no_lack_is_none(tmp_path: Path, edgewright_home: Path) -> None:
    edgewright_home.mkdir()
    assert shortage_of(ValueError("no")) is None
    assert shortage_of(FileNotFoundError(errno.ENOENT, "no such file", "x")) is None


def test_failure_of_a_server_on_a_full_disk_is_told_as_the_full_disk(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEWRIGHT_HOME", str(disk))
    ballast = fill(disk)
    assert (shortage_of(RuntimeError("500 Internal Server Error")) or "").startswith(f"{disk}: No space left")
    ballast.unlink()
    assert shortage_of(RuntimeError("500 Internal Server Error")) is None


def test_what_was_handled_before_is_not_blamed() -> None:
    error = ValueError("what went wrong")
    error.__context__ = PermissionError(errno.EACCES, "Permission denied", "/handled")
    assert "/handled" in str(shortage_of(error))
    error.__suppress_context__ = True  # as `from None` sets it
    assert shortage_of(error) is None


def test_error_of_a_descriptor_names_the_home(edgewright_home: Path) -> None:
    assert str(shortage_of(OSError(errno.ENOSPC, "No space left on device", 7))).startswith(
        f"{edgewright_home}: No space"
    )
