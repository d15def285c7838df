"""Fork servers: jobs in processes of their own, out of one that has the frameworks imported."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edgewright import forking
from edgewright.child import run_in_child
from edgewright.errors import ConversionError, CrashError, InputError
from edgewright.forking import Frameworks
from edgewright.progress import Announcement, progress

pytestmark = pytest.mark.skipif(not forking.is_available(), reason="fork servers are for Linux")


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[Frameworks, tuple[str, ...]]]:
    """Servers of this test alone, which import next to nothing."""
    pool, made = forking._pool, dict.fromkeys(Frameworks, ("edgewright.child",))
    monkeypatch.setattr(forking, "_pool", forking._Pool())
    monkeypatch.setattr(forking, "_IMPORTS", made)
    yield made
    forking._pool.close()
    monkeypatch.setattr(forking, "_pool", pool)


def job(function: Callable[..., object], environment: dict[str, str] | None = None) -> Any:
    given = {"what": "a job", "timeout_s": 60, "frameworks": Frameworks.TORCH}
    return run_in_child(partial(function), returns=object, environment=environment, **given).value


def family() -> list[int]:
    return [os.getpid(), os.getppid()]


def world() -> dict[str, object]:
    links = {int(path.name): str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.exists()}
    inherited = {number: link for number, link in links.items() if number > 2 and not link.startswith("/proc/")}
    return {"folder": str(Path.cwd()), "said": os.environ.get("SAID"), "descriptors": inherited}


def refuse() -> None:
    raise InputError("no such thing")


def raise_foreign() -> None:
    raise KeyError("spam")


def crash() -> None:
    print("about to crash", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def leave() -> None:
    sys.exit(3)


def sleep(started: str) -> None:
    Path(started).write_text(str(os.getpid()))
    time.sleep(600)


def spawn_one() -> int:
    return run_in_child(partial(os.getppid), returns=int, what="a job", frameworks=Frameworks.TORCH).value


def blas_threads() -> list[int]:
    from threadpoolctl import threadpool_info

    return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]


def test_each_job_is_a_process_of_its_own_and_one_server_forks_them(imports) -> None:
    (first, server), (second, same) = job(family), job(family)
    assert first != second
    assert server == same != os.getpid()


def test_a_job_has_the_asker_s_environment_and_folder_and_nothing_of_the_server(imports, tmp_path, monkeypatch) -> None:
    job(family)
    monkeypatch.setenv("SAID", "later")
    assert job(world) == {"folder": str(Path.cwd()), "said": "later", "descriptors": {}}
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    monkeypatch.chdir(tmp_path)
    assert job(world)["folder"] == str(tmp_path)


def test_what_libraries_read_when_they_are_loaded_makes_another_server(imports) -> None:
    plain, lean = job(family), job(family, {"MALLOC_ARENA_MAX": "1"})
    assert plain[1] != lean[1]
    assert job(family, {"SAID": "x"})[1] == plain[1]


def test_errors_and_ends_are_told_as_those_of_an_interpreter(imports) -> None:
    with pytest.raises(InputError, match="no such thing"):
        job(refuse)
    with pytest.raises(ConversionError, match=r"a job: KeyError: .*'spam'"):
        job(raise_foreign)
    with pytest.raises(CrashError, match=r"ended by SIGSEGV \(.*crash"):
        job(crash)
    with pytest.raises(ConversionError, match="ended with exit code 3 and no result"):
        job(leave)
    assert job(family)[1] != os.getpid()


def test_a_job_that_takes_too_long_is_over_when_that_is_told(imports, tmp_path) -> None:
    started = tmp_path / "started"
    given = {"what": "a job", "timeout_s": 2, "frameworks": Frameworks.TORCH, "writes": [tmp_path]}
    job(family)
    with pytest.raises(ConversionError, match="no result after 2 s; stopped"):
        run_in_child(partial(sleep, started), **given)
    assert not Path(f"/proc/{started.read_text()}").exists()


def test_a_library_that_starts_threads_is_found_out_and_told_once(imports, tmp_path, monkeypatch) -> None:
    (tmp_path / "threaded.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{Path.cwd()}:{tmp_path}")
    imports[Frameworks.TORCH] = ("threaded",)
    heard: list[Announcement] = []
    with progress.listening(heard.append):
        assert job(family)[1] == os.getpid()
        assert job(family)[1] == os.getpid()
    (said,) = [event.title for event in heard if event.note]
    assert "a library started threads when it was imported" in said


def test_a_server_whose_import_does_not_end_is_given_up(imports, tmp_path, monkeypatch) -> None:
    (tmp_path / "stuck.py").write_text("import threading\nthreading.Event().wait()\n")
    monkeypatch.setenv("PYTHONPATH", f"{Path.cwd()}:{tmp_path}")
    monkeypatch.setattr(forking, "_IMPORT_TIMEOUT_S", 2.0, raising=False)
    imports[Frameworks.TORCH] = ("stuck",)
    heard: list[Announcement] = []
    with progress.listening(heard.append):
        assert job(family)[1] == os.getpid()
    assert any("the server was still importing after 2 s" in event.title for event in heard)
    assert not forking._pool.servers


def test_a_server_that_cannot_import_is_given_up_and_one_that_was_killed_is_started_anew(imports) -> None:
    _, server = job(family)
    os.kill(server, signal.SIGKILL)
    forking._pool.servers[next(iter(forking._pool.servers))].process.wait()
    assert job(family)[1] not in {server, os.getpid()}
    imports[Frameworks.TABLES] = ("no_such_module",)
    heard: list[Announcement] = []
    with progress.listening(heard.append):
        ran = run_in_child(partial(family), returns=list[int], what="a job", frameworks=Frameworks.TABLES)
    assert ran.value[1] == os.getpid()
    assert any("No module named 'no_such_module'" in event.title for event in heard)


def test_what_other_versions_have_elsewhere_is_left_to_the_jobs(imports) -> None:
    imports[Frameworks.TORCH] = ("no_such_module?", "edgewright.child")
    assert job(family)[1] != os.getpid()


def test_a_job_of_a_job_has_an_interpreter_of_its_own(imports) -> None:
    asked = job(spawn_one)
    assert asked not in {server.process.pid for server in forking._pool.servers.values()} | {os.getpid()}


def test_blas_has_its_threads_back(imports) -> None:
    imports[Frameworks.TORCH] = ("numpy", "edgewright.child")
    assert job(blas_threads) == [os.cpu_count()]


def test_no_more_than_six_servers_stay(imports) -> None:
    for number in range(8):
        job(family, {"OMP_STACKSIZE": f"{number + 1}M"})
    assert len(forking._pool.servers) == 6


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_servers_and_jobs_end_with_the_asker(tmp_path, sign) -> None:
    started = tmp_path / "started"
    code = f"""
        from pathlib import Path
        from edgewright import forking
        from edgewright.child import run_in_child
        forking._IMPORTS = {{one: ("edgewright.child",) for one in forking.Frameworks}}
        from functools import partial
        from {__name__} import sleep
        run_in_child(partial(sleep, "{started}"), what="a job",
                     frameworks=forking.Frameworks.TORCH, writes=[Path("{tmp_path}")])
    """
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    asker = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], env=environment, stderr=subprocess.DEVNULL)
    _await(lambda: started.exists() and started.read_text())
    child = int(started.read_text())
    server = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
    assert server != asker.pid
    asker.send_signal(sign)
    asker.wait(30)
    _await(lambda: not _runs(child) and not _runs(server))


def _runs(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def _await(is_so, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)
