"""One Prefect server for all runs of a home: several would migrate, and lock, one SQLite database at the same time.

The first run starts it, others that come meanwhile use it, and it ends when the last has ended, however that was.
``python -m flows.home_server FOLDER`` is the server's side.
"""

import contextlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from edgewright.errors import EdgewrightError
from edgewright.locks import locked
from edgewright.shortage import setting_of
from edgewright.store import home, replace_file
from edgewright.variables import variable
from flows.outages import foreseen
from flows.prefect_home import ALIVE, STARTING, prefect_home, renew_database
from flows.serve import running_servers

__all__ = ["orchestrator"]

_START_TIMEOUT_S = 120
_POLL_S = 1.0
_MIN_FREE_BYTES = 10_000_000  # an empty database takes 2
_STATE, _USERS = ".edgewright-server.json", ".edgewright-server.users"


@contextlib.contextmanager
def orchestrator() -> Iterator[str | None]:
    """What the user has configured; else the servers of `edgewright ui`, where they run for this home; else the home's
    own, until this ends. Yields what to tell the user, if anything. A session may come here again.

    Raises:
        EdgewrightError: the home's server does not come up, or the one in use failed in the meantime.
    """
    try:
        with _chosen_server() as chosen:
            yield chosen
    except Exception as e:
        expected = foreseen(e)
        if expected in (None, e):
            raise
        raise expected from e


@contextlib.contextmanager
def _chosen_server() -> Iterator[str | None]:
    # Whatever names a server to Prefect itself: a variable, a profile, or its file of profiles.
    if variable("PREFECT_API_URL") or variable("PREFECT_PROFILE") or (prefect_home() / "profiles.toml").exists():
        yield None
    elif urls := running_servers():
        mlflow = variable("MLFLOW_TRACKING_URI") or urls["mlflow"]
        with _addressed(f"{urls['prefect']}/api"), _environment(MLFLOW_TRACKING_URI=mlflow):
            yield f"using the running servers: {urls['prefect']}, {mlflow}"
    else:
        with _home_server(prefect_home()) as url, _addressed(f"{url}/api"):
            yield None


@contextlib.contextmanager
def _addressed(api_url: str) -> Iterator[None]:
    """Prefect's address here, where its settings were read when it was imported, and in children."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with _environment(PREFECT_API_URL=api_url), temporary_settings({PREFECT_API_URL: api_url}):
        yield


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _home_server(folder: Path) -> Iterator[str]:
    # Held to the end: the server goes when nobody holds a share of it.
    with locked(folder / _USERS, shared=True):
        with locked(folder / STARTING):
            url = _url_of_server(folder)
        yield url


def _url_of_server(folder: Path) -> str:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        with locked(folder / ALIVE, wait=False) as nobody_serves:
            pass
        if nobody_serves:
            _start(folder)
        with contextlib.suppress(FileNotFoundError):  # a server that is ending has taken its address back
            url: str = json.loads((folder / _STATE).read_text())["url"]
            return url
        time.sleep(0.05)
    raise EdgewrightError("the Prefect server of this home neither serves nor ends; see its log below logs/")


def _start(folder: Path) -> None:
    _require_space(folder)
    renew_database(folder)
    # An address of an earlier server would be taken for the new one's.
    (folder / _STATE).unlink(missing_ok=True)
    log = home() / "logs" / "prefect-home-server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        # A session of its own: Ctrl-C is for the run that it was typed to, others may go on.
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.home_server", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    deadline = time.monotonic() + _START_TIMEOUT_S
    importlib.import_module("prefect")  # what is needed next, while the server starts
    while not (folder / _STATE).exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise EdgewrightError(f"the Prefect server of this home does not come up{_reason(folder, log)}; see {log}")
        time.sleep(0.05)


def _reason(folder: Path, log: Path) -> str:
    """Why, where its log tells of what the user can end."""
    if "database is locked" in log.read_text(errors="replace"):
        return f": another process has {folder / 'prefect.db'} locked; end that process, and try again"
    return ""


def _require_space(folder: Path) -> None:
    """Its database on a full disk would be waited for in vain."""
    free = shutil.disk_usage(folder).free
    if free < _MIN_FREE_BYTES:
        raise EdgewrightError(
            f"the disk of {folder} is full: {free / 1e6:.1f} MB are free, the Prefect server of this home needs "
            f"{_MIN_FREE_BYTES / 1e6:.0f}; free some, or set {setting_of(folder)} to a folder elsewhere"
        )


def _serve(folder: Path) -> None:
    from prefect.server.api.server import SubprocessASGIServer

    with locked(folder / ALIVE, wait=False) as alone:
        if not alone:
            return
        server = SubprocessASGIServer()
        server.start(timeout=_START_TIMEOUT_S)
        try:
            # Written when the server answers: whoever starts it waits for this file.
            replace_file(folder / _STATE, json.dumps({"url": server.address, "pid": os.getpid()}).encode())
            while server.server_process is not None and server.server_process.poll() is None and folder.exists():
                time.sleep(_POLL_S)
                # STARTING first: nobody decides that a server is there while this one decides to end.
                with locked(folder / STARTING), locked(folder / _USERS, wait=False) as unused:
                    if unused:  # who wants it now waits, finds no address, and starts another
                        (folder / _STATE).unlink()
                        server.stop()
        finally:
            (folder / _STATE).unlink(missing_ok=True)
            server.stop()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
