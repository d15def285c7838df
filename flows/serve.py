"""Prefect server, MLflow server and a worker, started together and stopped together."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from edgewright.child import die_with_parent
from edgewright.errors import EdgewrightError
from edgewright.progress import progress
from edgewright.project import project_folder
from edgewright.store import home, replace_file
from flows.prefect_home import prefect_home, renew_idle_database
from mlflow_server.serve import command as mlflow_command

__all__ = ["running_servers", "serve"]

POOL = "edgewright"
PREFECT_PORT = 4200
MLFLOW_PORT = 5000

_START_TIMEOUT_S = 120
# A worker may ignore SIGTERM for 8 s while it finishes its heartbeat.
_STOP_TIMEOUT_S = 15


def serve(prefect_port: int | None = None, mlflow_port: int | None = None) -> Iterator[dict[str, str]]:
    """Start everything, yield the addresses once all of it answers, and go on until a part of it dies.

    A port that is not given is the usual one, or a free one where that is taken. Closing the iterator, or an
    exception in it, stops every process that it started.

    Raises:
        EdgewrightError: a server did not come up, or one died.
    """
    ports = (prefect_port or _free_port(PREFECT_PORT), mlflow_port or _free_port(MLFLOW_PORT))
    urls = {"prefect": f"http://127.0.0.1:{ports[0]}", "mlflow": f"http://127.0.0.1:{ports[1]}"}
    environment = {
        **os.environ,
        "PREFECT_API_URL": f"{urls['prefect']}/api",
        "PREFECT_UI_API_URL": f"{urls['prefect']}/api",
        "MLFLOW_TRACKING_URI": urls["mlflow"],
        "EDGEWRIGHT_HOME": str(home()),
        "EDGEWRIGHT_PROJECT": str(project_folder()),
    }
    state = home() / "servers.json"
    renew_idle_database(prefect_home())
    with contextlib.ExitStack() as stack:
        processes = {
            "Prefect server": _start(
                stack, "prefect-server", _prefect("server", "start", "--port", str(ports[0])), environment
            ),
            "MLflow server": _start(stack, "mlflow-server", mlflow_command(ports[1]), environment),
        }
        with progress.during("Starting the Prefect and MLflow servers"):
            # Registering needs Prefect; what the worker runs needs MLflow.
            _await(f"{urls['prefect']}/api/health", processes)
            _await(f"{urls['mlflow']}/health", processes)
        with progress.during("Registering the deployments"):
            # Overwritten: a second start finds the pool, and must not fail for that.
            _once(_prefect("work-pool", "create", "--type", "process", "--overwrite", POOL), environment)
            _once(_prefect("--no-prompt", "deploy", "--all"), environment)
        processes["worker"] = _start(stack, "prefect-worker", _prefect("worker", "start", "--pool", POOL), environment)
        # Registered last, so run first: nobody is sent to servers that are about to stop.
        stack.callback(state.unlink, missing_ok=True)
        replace_file(state, json.dumps({**urls, "pid": os.getpid()}).encode())
        yield urls
        while not (dead := [name for name, process in processes.items() if process.poll() is not None]):
            time.sleep(0.5)
        raise EdgewrightError(f"the {dead[0]} ended with exit code {processes[dead[0]].returncode}; see {_logs()}")


def running_servers() -> dict[str, str] | None:
    """The addresses of the servers that `serve` runs now for this home, or None; a damaged note of them is none."""
    state = home() / "servers.json"
    if not state.exists():
        return None
    try:
        known = json.loads(state.read_text())
        # Signal 0 only asks whether there is such a process.
        os.kill(known["pid"], 0)
        with urllib.request.urlopen(f"{known['prefect']}/api/health", timeout=2):  # noqa: S310 - our own http address
            return {"prefect": known["prefect"], "mlflow": known["mlflow"]}
    # Of a process or server that is gone, of another server in its place, or of a damaged file.
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return None


def _prefect(*words: str) -> list[str]:
    return [sys.executable, "-m", "prefect", *words]


def _logs() -> Path:
    folder = home() / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _free_port(preferred: int) -> int:
    # Port 0 is whichever the system has free.
    for port in (preferred, 0):
        with socket.socket() as probe:
            # A port whose last connections are still in TIME_WAIT is free all the same.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise EdgewrightError("no free port on the loopback address")


def _start(
    stack: contextlib.ExitStack, name: str, line: list[str], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    log = stack.enter_context((_logs() / f"{name}.log").open("wb"))
    # A session of its own: Ctrl-C reaches this process alone, which then stops the parts in order.
    process = subprocess.Popen(
        line,
        env=environment,
        cwd=project_folder(),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        preexec_fn=partial(die_with_parent, signal.SIGTERM),  # noqa: PLW1509 - one system call, no lock taken
    )
    stack.callback(_stop, process)
    return process


def _stop(process: subprocess.Popen[bytes]) -> None:
    # To the group: what a server started goes with it.
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT_S)
    # Children that the leader left behind go with it.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _await(url: str, processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        for name, process in processes.items():
            if process.poll() is not None:
                raise EdgewrightError(f"the {name} ended with exit code {process.returncode}; see {_logs()}")
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own http address
                if answer.status == 200:
                    return
        # Not up yet (a URLError is an OSError), or something else answers on its port for now.
        except (OSError, http.client.HTTPException):
            time.sleep(0.2)
    raise EdgewrightError(f"{url} does not answer after {_START_TIMEOUT_S} s; see {_logs()}")


def _once(line: list[str], environment: Mapping[str, str]) -> None:
    done = subprocess.run(line, env=environment, cwd=project_folder(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EdgewrightError(f"{' '.join(line[2:])}: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
