import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgewright.locks import locked


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "lock"


def test_one_that_does_not_wait_is_told_whether_it_holds_the_lock(lock: Path) -> None:
    with locked(lock, wait=False) as first:
        assert first
        with locked(lock, wait=False) as second:
            assert not second
    with locked(lock, wait=False) as again:
        assert again


def test_shared_lock_is_held_by_several_and_keeps_out_who_wants_it_alone(lock: Path) -> None:
    with locked(lock, shared=True) as first, locked(lock, shared=True, wait=False) as second:
        assert first
        assert second
        with locked(lock, wait=False) as alone:
            assert not alone


def test_lock_held_alone_keeps_out_who_would_share_it(lock: Path) -> None:
    with locked(lock), locked(lock, shared=True, wait=False) as shared:
        assert not shared


def test_one_that_waits_runs_when_the_holder_is_done(lock: Path) -> None:
    order: list[str] = []
    begun = threading.Event()

    def second() -> None:
        begun.set()
        with locked(lock) as held:
            order.append("second" if held else "not held")

    waiting = threading.Thread(target=second)
    with locked(lock):
        waiting.start()
        begun.wait()
        waiting.join(0.3)
        assert waiting.is_alive()
        order.append("first")
    waiting.join(10)

    assert order == ["first", "second"]


def test_lock_of_a_killed_process_is_free_again(lock: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from edgewright.locks import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with locked(lock, wait=False) as meanwhile:
            assert not meanwhile
        holder.kill()
    with locked(lock, wait=False) as afterwards:
        assert afterwards
