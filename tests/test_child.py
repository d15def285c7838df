import math
import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from edgewright import errors
from edgewright.artifact import Precision
from edgewright.child import _cause_of_death, run_in_child
from edgewright.errors import ConversionError, InputError, UnsupportedError
from edgewright.progress import Announcement, progress
from edgewright.scratch import system_scratch
from edgewright_runtime.bundle.manifest import TensorSpec
from tests.small_disk import mounted


def add(a: int, b: int) -> int:
    return a + b


def modules() -> list[str]:
    return sorted(sys.modules)


def refuse() -> None:
    raise UnsupportedError("no path for Foo")


def fail() -> None:
    raise ValueError("first line\nsecond line")


def crash() -> None:
    print("last words", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def end_in_real_time() -> None:
    print("x" * (1 << 20), flush=True)
    print("last words", flush=True)
    os.kill(os.getpid(), 40)


def hang() -> None:
    time.sleep(60)


def grow() -> int:
    return len(bytearray(200 << 20))


def test_returns_what_the_function_returned() -> None:
    assert run_in_child(partial(add, 1, b=2), returns=int, what="adding").value == 3


def kinds(spec: TensorSpec, path: Path, precision: Precision, numbers: dict[str, float]) -> list[TensorSpec]:
    assert isinstance(spec, TensorSpec)
    assert isinstance(path, Path)
    assert precision is Precision.INT8
    return [spec, TensorSpec(path.name, (), str(numbers["nan"]), scale=numbers["infinite"])]


def test_arguments_and_value_are_what_the_annotations_say() -> None:
    spec = TensorSpec("x", (-1, 3), "float32")
    job = partial(kinds, spec, Path("a/b"), precision=Precision.INT8, numbers={"nan": math.nan, "infinite": math.inf})
    given = run_in_child(job, returns=list[TensorSpec], what="trying").value
    assert given == [spec, TensorSpec("b", (), "nan", scale=math.inf)]


def test_an_argument_of_another_type_is_refused_in_the_child() -> None:
    with pytest.raises(ConversionError, match=r"adding: ValidationError: .*int"):
        run_in_child(partial(add, "one", 2), returns=int, what="adding")


def test_a_function_of_a_script_is_refused() -> None:
    job = partial(add, 1, 2)
    job.func.__module__, name = "__main__", job.func.__module__
    try:
        with pytest.raises(ValueError, match="script"):
            run_in_child(job, returns=int, what="adding")
    finally:
        job.func.__module__ = name


def test_child_imports_nothing_of_the_parent() -> None:
    assert "torch" not in run_in_child(partial(modules), returns=list[str], what="listing").value


def test_our_errors_come_back_as_they_are() -> None:
    with pytest.raises(UnsupportedError, match=r"^no path for Foo$"):
        run_in_child(partial(refuse), what="trying")


def forge(answer: str) -> None:
    Path(sys.argv[2]).write_bytes(answer.encode("latin-1"))
    os._exit(0)


@pytest.mark.parametrize(
    "answer",
    [
        "no JSON",
        "\xff",
        "[" * 100_000,
        "[]",
        '{"notes": 3}',
        '{"error": {"type": "X"}}',
        '{"value": "of another type"}',
    ],
)
def test_an_answer_that_no_child_gives_is_one_clear_line(answer: str) -> None:
    """A hostile file that takes the child over writes what it likes."""
    with pytest.raises(ConversionError, match=r"^trying: the child process answered something else: ") as caught:
        run_in_child(partial(forge, answer), what="trying")
    assert "\n" not in str(caught.value)


def test_other_errors_become_one_line() -> None:
    with pytest.raises(ConversionError) as caught:
        run_in_child(partial(fail), what="converting")
    assert str(caught.value) == "converting: ValueError: first line"


def test_crash_is_named_by_its_signal() -> None:
    with pytest.raises(ConversionError, match="ended by SIGSEGV"):
        run_in_child(partial(crash), what="converting")


def test_hang_is_stopped_at_the_limit() -> None:
    with pytest.raises(ConversionError, match="no result after 1 s"):
        run_in_child(partial(hang), what="converting", timeout_s=1)


@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is in /proc, which only Linux has")
def test_peak_memory_is_the_childs_own() -> None:
    ballast = bytearray(300 << 20)
    small = run_in_child(partial(add, 1, b=2), returns=int, what="adding").peak_memory_mb
    large = run_in_child(partial(grow), returns=int, what="growing").peak_memory_mb
    assert len(ballast) > 0
    assert small is not None
    assert large is not None
    assert small < 150
    assert 200 < large < 350


def note() -> str:
    progress.note("a file was replaced")
    return tempfile.mkdtemp()


def test_what_a_child_tells_is_told_here_and_its_temporary_files_end_with_it() -> None:
    said: list[Announcement] = []
    with progress.listening(said.append):
        folder = Path(run_in_child(partial(note), returns=str, what="noting").value)
    assert [event.title for event in said if event.note] == ["a file was replaced"]
    assert folder.parent.parent == system_scratch()
    assert not folder.exists()


def test_file_in_the_place_of_the_scratch_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"edgewright-{os.getuid()}").touch()
    with pytest.raises(InputError, match=r"is not a folder; remove it, or name another .* TMPDIR"):
        system_scratch()


def test_folder_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"edgewright-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="TMPDIR"):
        system_scratch()


def test_end_by_a_signal_without_a_name_is_told_by_its_number() -> None:
    with pytest.raises(ConversionError, match=r"ended by signal 40 \(last words\)"):
        run_in_child(partial(end_in_real_time), what="ending")


def test_of_a_childs_log_only_the_end_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with log.open("wb") as stream:
        stream.truncate(4 << 30)  # takes no room on the disk; in memory it would
        stream.seek(0, os.SEEK_END)
        stream.write(b"\nlast words\n\n")
    began = time.perf_counter()
    assert _cause_of_death(1, log).endswith("exit code 1 and no result (last words)")
    assert time.perf_counter() - began < 1


def fill_up(folder: Path, kind: str) -> None:
    """As a converter does: it says that it cannot, and not why."""
    with suppress(OSError), (folder / "converted").open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))
    raise getattr(errors, kind, RuntimeError)("serialization failed")


@pytest.mark.parametrize("kind", ["RuntimeError", "ConversionError", "UnsupportedError"])
def test_whatever_fails_on_a_full_disk_is_told_as_the_full_disk(tmp_path: Path, kind: str) -> None:
    with mounted(tmp_path / "disk", megabytes=1) as disk:
        with pytest.raises(errors.EdgewrightError) as told:
            run_in_child(partial(fill_up, disk, kind), what="converting x", writes=[disk])
        assert type(told.value) is errors.EdgewrightError
        assert str(told.value).startswith(f"{disk}: No space left on device; free some room there")
        with pytest.raises(errors.UntrustedModelError, match="serialization failed"):
            run_in_child(partial(fill_up, disk, "UntrustedModelError"), what="opening x", writes=[disk])
