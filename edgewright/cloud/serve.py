"""Running the cloud's side: ``edgewright cloud``."""

from pathlib import Path

from edgewright.cloud.app import create_app
from edgewright.cloud.database import Database
from edgewright.errors import InputError
from edgewright.shortage import require_writable
from edgewright.store import home
from edgewright_runtime.errors import EdgeRuntimeError

__all__ = ["add_device", "add_operator", "default_database", "serve"]


def default_database() -> str:
    """SQLite below Edgewright's home.

    Raises:
        InputError: the home cannot be written.
    """
    require_writable(home())
    return f"sqlite:///{home() / 'cloud.db'}"


def add_device(device: str, database: str | None = None) -> str:
    """Register a device and return the token that it must send; it is shown once.

    Raises:
        InputError: a name that is taken or not allowed, or a database that cannot be used.
    """
    opened = Database(database or default_database())
    try:
        return opened.add_device(device)
    finally:
        opened.close()


def add_operator(operator: str, database: str | None = None) -> str:
    """Register somebody who may see all devices; the same as `add_device`."""
    opened = Database(database or default_database())
    try:
        return opened.add_operator(operator)
    finally:
        opened.close()


def serve(
    *,
    database: str | None = None,
    repository: str | None = None,
    bundles: list[Path] | None = None,
    host: str = "127.0.0.1",
    port: int = 8100,
) -> None:
    """Serve until interrupted.

    Raises:
        InputError: a bundle or database that cannot be used.
    """
    from edgewright.cloud.connections import server

    opened = Database(database or default_database())
    opened.require_whole()
    try:
        app = create_app(opened, repository=repository, bundles=bundles)
    except EdgeRuntimeError as e:
        raise InputError(f"a model cannot be served: {e}") from e
    try:
        server(app, host, port).run()
    finally:
        opened.close()
