"""The tracking server for one machine: SQLite and a folder under ``.edgewright/mlflow``.

``python -m mlflow_server.serve [PORT]`` starts it on loopback. A team runs ``compose.yaml`` instead.
"""

import os
import sys
from pathlib import Path

from edgewright.locks import locked
from edgewright.sqlite_file import set_aside_if_damaged
from edgewright.store import home

__all__ = ["command", "environment", "lock_of", "renew_database"]

DEFAULT_PORT = 5000


def command(port: int = DEFAULT_PORT, folder: Path | None = None) -> list[str]:
    """The command line of the server; makes the folder it needs, and sets a damaged database aside."""
    folder = folder or home() / "mlflow"
    database = folder / "mlflow.db"
    (folder / "artifacts").mkdir(parents=True, exist_ok=True)
    with locked(lock_of(database)):
        renew_database(database)
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{database}"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]


def lock_of(database: Path) -> Path:
    """The lock of an embedded database: one run at a time has it open."""
    return database.with_name(f".{database.name}.lock")


def renew_database(database: Path) -> None:
    """Set a damaged database aside; the caller holds its lock."""
    set_aside_if_damaged(database, "MLflow")


def environment() -> dict[str, str]:
    """The environment that the server runs in: this one, with telemetry off."""
    return {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"}


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_PORT
    line = command(port)
    os.execve(line[0], line, environment())  # noqa: S606 - our own interpreter, no shell
