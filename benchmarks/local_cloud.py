"""The real cloud in a process of its own, for the benchmarks that need one."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from edgewright.cloud.database import Database

__all__ = ["running_cloud"]


@contextmanager
def running_cloud(url: str) -> Iterator[tuple[str, str, Database]]:
    """The real server in a process of its own, over the database at ``url``: its address, a device's token."""
    database = Database(url)
    token = database.add_device("device")
    code = (
        "import sys, uvicorn\n"
        "from edgewright.cloud.database import Database\n"
        "from edgewright.cloud.app import create_app\n"
        "server = uvicorn.Server(uvicorn.Config(create_app(Database(sys.argv[1])), port=0, log_level='error'))\n"
        "startup = server.startup\n"
        "async def told(sockets=None):\n"
        "    await startup(sockets)\n"
        "    print(server.servers[0].sockets[0].getsockname()[1], flush=True)\n"
        "server.startup = told\n"
        "server.run()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}", token, database
        finally:
            process.terminate()
            process.wait()
            database.close()
