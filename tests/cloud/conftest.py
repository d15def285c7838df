"""The bundles that these tests share, and a real server on loopback."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn

from edgewright.cloud.app import create_app
from edgewright.cloud.connections import server as bounded_server
from edgewright.cloud.database import Database
from tests.bundles import image_bundle, newer_bundle, table_bundle

__all__ = ["image_bundle", "newer_bundle", "table_bundle"]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'cloud.db'}")
    yield opened
    opened.close()


@pytest.fixture
def serving(database: Database) -> Iterator[Callable[..., str]]:
    """Starts the application with options of `create_app`; returns its address."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(**options: object) -> str:
        app = create_app(database, **options)
        server = bounded_server(app, "127.0.0.1", 0)
        thread = threading.Thread(target=server.run)
        thread.start()
        running.append((server, thread))
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            thread.join(0.02)
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join()
