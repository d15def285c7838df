"""Where the home's own Prefect server keeps its database, and the locks of those who share it."""

from pathlib import Path

from edgewright.locks import locked
from edgewright.sqlite_file import set_aside_if_damaged
from edgewright.variables import variable

__all__ = ["ALIVE", "STARTING", "prefect_home", "renew_database", "renew_idle_database"]

STARTING = ".edgewright-server.lock"  # who holds it decides whether a server is started
ALIVE = ".edgewright-server.alive"  # held by the server


def prefect_home() -> Path:
    """``PREFECT_HOME``, else Prefect's own default."""
    # Prefect expands a tilde, which an env file hands on as it is.
    return Path(variable("PREFECT_HOME") or Path.home() / ".prefect").expanduser()


def renew_database(folder: Path) -> None:
    """Set a damaged database aside; the caller holds `STARTING`, and no server runs."""
    set_aside_if_damaged(folder / "prefect.db", "the Prefect server")


def renew_idle_database(folder: Path) -> None:
    """The same, unless the server of a run has it open."""
    # Under STARTING no run starts a server between the question and the exchange.
    with locked(folder / STARTING), locked(folder / ALIVE, wait=False) as nobody_serves:
        if nobody_serves:
            renew_database(folder)
