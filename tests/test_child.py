import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest

from edgewright.child import run_in_child
from edgewright.errors import ConversionError, InputError, UnsupportedError
from edgewright.progress import Event, progress
from edgewright.scratch import system_scratch

HERE = "tests.test_child"


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


def hang() -> None:
    time.sleep(60)


def grow() -> int:
    return len(bytearray(200 << 20))


def test_returns_what_the_function_returned() -> None:
    assert run_in_child(f"{HERE}:add", {"a": 1, "b": 2}, what="adding").value == 3


def test_child_imports_nothing_of_the_parent() -> None:
    assert "torch" not in run_in_child(f"{HERE}:modules", {}, what="listing").value


def test_our_errors_come_back_as_they_are() -> None:
    with pytest.raises(UnsupportedError, match=r"^no path for Foo$"):
        run_in_child(f"{HERE}:refuse", {}, what="trying")


def test_other_errors_become_one_line() -> None:
    with pytest.raises(ConversionError) as caught:
        run_in_child(f"{HERE}:fail", {}, what="converting")
    assert str(caught.value) == "converting: ValueError: first line"


def test_crash_is_named_by_its_signal() -> None:
    with pytest.raises(ConversionError, match="ended by SIGSEGV"):
        run_in_child(f"{HERE}:crash", {}, what="converting")


def test_hang_is_stopped_at_the_limit() -> None:
    with pytest.raises(ConversionError, match="no result after 1 s"):
        run_in_child(f"{HERE}:hang", {}, what="converting", timeout_s=1)


@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is in /proc, which only Linux has")
def test_peak_memory_is_the_childs_own() -> None:
    ballast = bytearray(300 << 20)
    small = run_in_child(f"{HERE}:add", {"a": 1, "b": 2}, what="adding").peak_memory_mb
    large = run_in_child(f"{HERE}:grow", {}, what="growing").peak_memory_mb
    assert len(ballast) > 0
    assert small is not None
    assert large is not None
    assert small < 150
    assert 200 < large < 350


def note() -> str:
    progress.note("a file was replaced")
    return tempfile.mkdtemp()


def test_what_a_child_tells_is_told_here_and_its_temporary_files_end_with_it() -> None:
    said: list[Event] = []
    with progress.listening(said.append):
        folder = Path(run_in_child(f"{HERE}:note", {}, what="noting").value)
    assert [event.title for event in said if event.note] == ["a file was replaced"]
    assert folder.parent.parent == system_scratch()
    assert not folder.exists()


def test_folder_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"edgewright-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="TMPDIR"):
        system_scratch()
