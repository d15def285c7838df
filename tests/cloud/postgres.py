"""A PostgreSQL of Debian's packages on loopback, for the tests and benchmarks that compare it with SQLite."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

__all__ = ["Postgres", "controlled_postgres", "postgres_binaries", "running_postgres"]


def postgres_binaries() -> Path | None:
    """The folder of ``initdb`` and ``pg_ctl``; None where PostgreSQL is not installed or cannot be run here."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found or (os.geteuid() == 0 and not shutil.which("runuser")):
        return None
    return found[-1]


class Postgres(NamedTuple):
    """A running server: its SQLAlchemy URL, and ``control``, which gives ``pg_ctl`` a command."""

    url: str
    control: Callable[..., None]


@contextmanager
def running_postgres() -> Iterator[str]:
    """A server of its own in a folder of its own, removed afterwards; yields its SQLAlchemy URL."""
    with controlled_postgres() as server:
        yield server.url


@contextmanager
def controlled_postgres() -> Iterator[Postgres]:
    """The same, for a test that stops and starts it."""
    binaries = postgres_binaries()
    assert binaries is not None
    # PostgreSQL refuses to run as root, and pytest's own folders are closed to other users.
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="edgewright-postgres-"))
    if user:
        shutil.chown(folder, "postgres")
    data, log = folder / "data", folder / "log"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"

    def run(*command: str) -> None:
        # pg_ctl leaves the server running: with pipes for its output this would wait for the server's end.
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([*user, *command], check=True, cwd=folder, **quiet)

    try:
        run(str(binaries / "initdb"), "-D", str(data), "-A", "trust", "-U", "edgewright")
        control = partial(
            run, str(binaries / "pg_ctl"), "-D", str(data), "-m", "fast", "-w", "-l", str(log), "-o", options
        )
        control("start")
        try:
            yield Postgres(f"postgresql+psycopg2://edgewright@127.0.0.1:{port}/postgres", control)
        finally:
            control("stop")
    finally:
        shutil.rmtree(folder)
