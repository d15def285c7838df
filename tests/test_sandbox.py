"""What a child that opens others' files cannot do, even when it runs their code."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from edgewright import sandbox
from edgewright.child import run_in_child

SHARED = Path("/dev/shm/edgewright-test")  # noqa: S108 - that it cannot be written is what is tested
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="confined by Landlock and seccomp, which Linux has")


def outcome(action: Callable[[], object]) -> str:
    """What the system answered."""
    try:
        return f"done: {action()}"
    except (OSError, ValueError) as e:
        return type(e).__name__


def attempts(outside: str, inside: str, port: int, parent: int) -> dict[str, str]:
    """Everything that code of others could try."""
    victim = Path(outside) / "victim"
    tried: dict[str, Callable[[], object]] = {
        "write": lambda: (Path(outside) / "new").write_text("x"),
        "truncate": lambda: os.truncate(victim, 0),
        "remove": victim.unlink,
        "rename": lambda: victim.rename(Path(inside) / "taken"),
        "replace": lambda: (Path(inside) / "own").rename(victim),
        "link": lambda: os.link(victim, Path(inside) / "linked"),
        "folder": (Path(outside) / "folder").mkdir,
        "symlink": lambda: (Path(outside) / "link").symlink_to("/etc/passwd"),
        "through a link": lambda: (Path(inside) / "door" / "new").write_text("x"),
        "pipe": lambda: os.mkfifo(Path(outside) / "pipe"),
        "device": lambda: SHARED.write_text("x"),
        "own memory": lambda: Path("/proc/self/mem").write_bytes(b"x"),
        "TCP": lambda: socket.create_connection(("127.0.0.1", port), 1),
        "UDP": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "Unix": lambda: socket.socket(socket.AF_UNIX),
        "program": lambda: subprocess.run(["/bin/true"], check=True),
        "shell": _shell,
        "signal": lambda: os.kill(parent, signal.SIGUSR1),
        "limits": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 50, 1 << 50)),
        "namespace": _unshared,
    }
    (Path(inside) / "own").write_text("mine")
    (Path(inside) / "door").symlink_to(outside)
    return {name: outcome(action) for name, action in tried.items()}


def _shell() -> None:
    if os.system("true"):  # noqa: S605, S607 - whatever a shell is there
        raise OSError("no shell")


def _unshared() -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10000000):  # CLONE_NEWUSER
        raise OSError(ctypes.get_errno(), "unshare")


def changes(path: str) -> str:
    """Changes that Landlock does not know."""
    Path(path).chmod(0o777)
    os.utime(path, (0, 0))
    with contextlib.suppress(OSError):
        os.setxattr(path, "user.mark", b"x")
    return "answered"


def python_again(outside: str) -> str:
    """A child of its own, which inherits what was given up."""
    code = f"open({str(Path(outside) / 'nested')!r}, 'w')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stderr.strip().splitlines()[-1].partition(":")[0]


def nested(outside: str) -> str:
    return run_in_child(partial(python_again, outside), returns=str, what="inside", writes=[Path(outside)]).value


def ordinary(inside: str) -> list[str]:
    """What work needs: files, threads, processes, pipes."""
    import multiprocessing
    import tempfile
    import threading

    (Path(inside) / "made").write_text("x")
    thread = threading.Thread(target=(Path(inside) / "by_thread").write_text, args=("x",))
    thread.start()
    thread.join()
    forked = multiprocessing.get_context("fork").Process(target=(Path(inside) / "by_process").write_text, args=("x",))
    forked.start()
    forked.join()
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"x")
    socket.socketpair()
    Path(os.devnull).write_text("x")
    return sorted(path.name for path in Path(inside).iterdir())


def told() -> str | None:
    return os.environ.get("EDGEWRIGHT_CONFINED")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "victim").write_text("kept")
    return outside, inside


def test_nothing_outside_is_touched_and_nobody_reached(folders: tuple[Path, Path]) -> None:
    outside, inside = folders
    received: list[int] = []
    former = signal.signal(signal.SIGUSR1, lambda number, _: received.append(number))
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            where = {"outside": str(outside), "inside": str(inside), "port": server.getsockname()[1]}
            ran = run_in_child(
                partial(attempts, **where, parent=os.getpid()), returns=dict[str, str], what="trying", writes=[inside]
            )
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert {name: said for name, said in ran.value.items() if said.startswith("done")} == {}
    assert ran.unconfined == ""
    assert [path.name for path in outside.iterdir()] == ["victim"]
    assert (outside / "victim").read_text() == "kept"
    assert received == []


def test_modes_and_times_outside_stay(folders: tuple[Path, Path]) -> None:
    victim = folders[0] / "victim"
    before = victim.stat()
    assert run_in_child(partial(changes, victim), returns=str, what="changing").value == "answered"
    after = victim.stat()
    assert (before.st_mode, before.st_mtime_ns) == (after.st_mode, after.st_mtime_ns)
    assert os.listxattr(victim) == []


def test_a_child_of_the_child_inherits_it(folders: tuple[Path, Path]) -> None:
    outside, _ = folders
    for function in (python_again, nested):
        assert run_in_child(partial(function, outside), returns=str, what="again").value == "PermissionError"
    assert [path.name for path in outside.iterdir()] == ["victim"]


def test_work_goes_on(folders: tuple[Path, Path]) -> None:
    job = partial(ordinary, folders[1])
    made = run_in_child(job, returns=list[str], what="working", writes=[folders[1]]).value
    assert made == ["by_process", "by_thread", "made"]


def test_a_users_environment_does_not_open_it(monkeypatch: pytest.MonkeyPatch, folders: tuple[Path, Path]) -> None:
    monkeypatch.setenv("EDGEWRIGHT_CONFINED", "")
    assert run_in_child(partial(python_again, folders[0]), returns=str, what="again").value == "PermissionError"


def test_code_of_the_user_s_own_is_not_confined(folders: tuple[Path, Path]) -> None:
    job = partial(changes, folders[0] / "victim")
    done = run_in_child(job, returns=str, what="changing", is_confined=False)
    assert done.value == "answered"
    assert (folders[0] / "victim").stat().st_mode & 0o777 == 0o777
    assert run_in_child(partial(told), returns=object, what="asking", is_confined=False).value is None


@pytest.mark.parametrize(
    ("abi", "missing"), [(0, "no Landlock in this kernel"), (1, "older than Linux 6.2"), (2, "older"), (3, ""), (5, "")]
)
def test_what_an_older_kernel_lacks_is_said_and_the_rest_holds(
    folders: tuple[Path, Path], abi: int, missing: str
) -> None:
    outside, inside = folders
    code = (
        "import sys, os, socket\nfrom pathlib import Path\nfrom edgewright import sandbox\n"
        "real = sandbox._LIBC.syscall\n"
        "sandbox._LIBC.syscall = lambda n, *a: int(sys.argv[1]) if n == 444 and a[0] is None else real(n, *a)\n"
        "print(sandbox.confine([Path(sys.argv[2])], seconds=60))\n"
        "try:\n    open(sys.argv[3], 'w')\n    print('written')\nexcept PermissionError:\n    print('refused')\n"
        "try:\n    os.kill(os.getppid(), 0)\n    print('reached')\nexcept PermissionError:\n    print('refused')\n"
        "os.kill(os.getpid(), 0)\n"
        "try:\n    socket.socket()\n    print('reached')\nexcept PermissionError:\n    print('refused')\n"
    )
    command = [sys.executable, "-c", code, str(abi), str(inside), str(outside / "new")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said, *rest = done.stdout.splitlines()
    assert missing in said if missing else said == ""
    assert rest == ["written" if abi == 0 else "refused", "refused", "refused"]


def test_time_memory_and_files_are_bounded(folders: tuple[Path, Path]) -> None:
    code = (
        "import sys, resource\nfrom pathlib import Path\nfrom edgewright import sandbox\n"
        "sandbox.confine([Path(sys.argv[1])], seconds=0)\nprint(resource.getrlimit(resource.RLIMIT_CPU)[0])\n"
        "print(resource.getrlimit(resource.RLIMIT_FSIZE)[0], resource.getrlimit(resource.RLIMIT_CORE)[0],"
        " resource.getrlimit(resource.RLIMIT_DATA)[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, folders[1]], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        "60",
        str(32 << 30),
        "0",
        str(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
    ]


def test_the_rules_of_macos_name_the_folders(tmp_path: Path) -> None:
    """Run on a Mac alone; here their text."""
    odd = tmp_path / 'a "quoted" \\ folder'
    rules = sandbox._profile([odd])
    assert "(deny network*)(deny file-write*)(deny process-exec*)" in rules
    assert str(odd).replace("\\", "\\\\").replace('"', '\\"') in rules
    assert rules.count("(") == rules.count(")")
