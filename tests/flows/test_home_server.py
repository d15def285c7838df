"""The home's own Prefect server, where it cannot start, or finds its database damaged."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgewright.errors import EdgewrightError
from edgewright.locks import locked
from flows import home_server
from flows.prefect_home import ALIVE, STARTING, prefect_home, renew_idle_database
from flows.serve import _await, running_servers


def test_a_full_disk_is_one_line_before_anything_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Any) -> Any:
        return shutil._ntuple_diskusage(10**9, 10**9 - 300_000, 300_000)

    monkeypatch.setattr(shutil, "disk_usage", full)
    with pytest.raises(
        EdgewrightError, match=r"is full: 0\.3 MB are free, .* needs 10; free some, or set EDGEWRIGHT_HOME"
    ):
        home_server._start(tmp_path)
    assert not list(tmp_path.iterdir())


_USER = """
import json, os, sys, urllib.request
from edgewright.progress import progress
from flows.home_server import orchestrator
said = []
with progress.listening(lambda event: said.append(event.title)), orchestrator():
    url = os.environ["PREFECT_API_URL"]
    asked = urllib.request.Request(f"{url}/flows/count", b"{}", {"Content-Type": "application/json"})
    flows = json.load(urllib.request.urlopen(asked))
    print(json.dumps({"url": url, "flows": flows, "said": said}), flush=True)
    sys.stdin.read()
"""


@pytest.mark.timeout(200)
def test_damaged_database_is_set_aside_once_by_runs_that_find_it_together(tmp_path: Path) -> None:
    folder = tmp_path / "prefect"
    folder.mkdir()
    (folder / "prefect.db").write_bytes(damaged := b"no database at all" * 1000)
    environment = {**os.environ, "PREFECT_HOME": str(folder), "EDGEWRIGHT_HOME": str(tmp_path / "home")}
    command, pipes = [sys.executable, "-c", _USER], {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}

    runs = [subprocess.Popen(command, env=environment, **pipes) for _ in range(2)]
    found = [json.loads(run.stdout.readline()) for run in runs]
    for run in runs:
        run.communicate()

    assert found[0]["url"] == found[1]["url"]
    assert [each["flows"] for each in found] == [0, 0]
    assert [p.read_bytes() for p in folder.glob("prefect.db.damaged*")] == [damaged]
    (line,) = found[0]["said"] + found[1]["said"]
    assert "the database of the Prefect server is damaged (file is not a database); set aside as" in line


def test_database_that_a_run_serves_is_left_to_it(tmp_path: Path) -> None:
    (tmp_path / "prefect.db").write_bytes(b"no database at all" * 1000)

    with locked(tmp_path / ALIVE):
        renew_idle_database(tmp_path)
    assert (tmp_path / "prefect.db").exists()

    renew_idle_database(tmp_path)
    assert [p.name for p in tmp_path.glob("prefect*")] == ["prefect.db.damaged"]
    with locked(tmp_path / STARTING, wait=False) as free:
        assert free


@pytest.mark.timeout(200)
def test_database_that_another_process_has_locked_is_named_in_one_line(
    tmp_path: Path, edgewright_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgewright.sqlite_file._WAIT_S", 0.0)
    monkeypatch.setattr(home_server, "_START_TIMEOUT_S", 0.5)

    class _Ended(subprocess.Popen[bytes]):
        def __init__(self, *_: Any, stdout: Any, **options: Any) -> None:
            code = "print('sqlite3.OperationalError: database is locked'); raise SystemExit(1)"
            super().__init__([sys.executable, "-c", code], stdout=stdout)
            self.wait()

    monkeypatch.setattr(subprocess, "Popen", _Ended)
    with pytest.raises(EdgewrightError, match=r"another process has .*prefect\.db locked; end that process") as caught:
        home_server._start(tmp_path)
    assert "\n" not in str(caught.value)


def test_server_that_is_ending_is_waited_for_and_another_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / home_server._STATE
    monkeypatch.setattr(home_server, "_start", lambda _: state.write_text('{"url": "http://next"}'))
    with ThreadPoolExecutor(1) as pool:
        with locked(tmp_path / ALIVE):  # its address is taken back already
            newcomer = pool.submit(home_server._url_of_server, tmp_path)
            with pytest.raises(TimeoutError):
                newcomer.result(timeout=0.3)
        assert newcomer.result(timeout=10) == "http://next"


def test_server_takes_its_address_back_before_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    addressed_at_stop = []

    class _Server:
        address = "http://127.0.0.1:1"
        server_process = None

        def start(self, timeout: float) -> None:
            self.server_process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

        def stop(self) -> None:
            addressed_at_stop.append((tmp_path / home_server._STATE).exists())
            self.server_process.communicate()

    monkeypatch.setattr("prefect.server.api.server.SubprocessASGIServer", _Server)
    monkeypatch.setattr(home_server, "_POLL_S", 0.01)
    home_server._serve(tmp_path)
    assert not any(addressed_at_stop)
    assert addressed_at_stop


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no JSON",
        b"\xff\xfe",
        b"[]",
        b'{"pid": "x"}',
        b'{"pid": 99999999}',
        b'{"pid": 1' + b"0" * 30 + b"}",
        b"[" * 100_000,
    ],
)
def test_damaged_note_of_running_servers_is_none(edgewright_home: Path, content: bytes) -> None:
    edgewright_home.mkdir()
    (edgewright_home / "servers.json").write_bytes(content)
    assert running_servers() is None


@contextmanager
def _answering(*replies: bytes) -> Iterator[str]:
    """A port that answers one connection after another with these bytes; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)  # a test that fails never connects

        def answer() -> None:
            for reply in replies:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def test_port_that_answers_no_http_is_not_the_server_of_the_note(edgewright_home: Path) -> None:
    edgewright_home.mkdir()
    with _answering(b"SSH-2.0-another\r\n") as url:
        (edgewright_home / "servers.json").write_text(json.dumps({"pid": os.getpid(), "prefect": url, "mlflow": url}))
        assert running_servers() is None


def test_server_is_awaited_where_another_answers_before_it() -> None:
    with _answering(b"SSH-2.0-another\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as url:
        _await(url, {})


def test_a_tilde_is_the_user_s_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", "~/pf")
    assert prefect_home() == Path.home() / "pf"
