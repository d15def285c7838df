"""``edgewright cloud``: serve, and register devices."""

from pathlib import Path
from typing import Annotated

import typer

from edgewright.terminal import terminal

__all__ = ["cloud_app"]

cloud_app = typer.Typer()
console = terminal()

_Database = Annotated[
    str | None, typer.Option(help="SQLAlchemy URL (sqlite, postgresql); SQLite below Edgewright's home by default.")
]


@cloud_app.callback(invoke_without_command=True)
def cloud(context: typer.Context) -> None:
    """The cloud's side of devices in the field; without a command it serves them, as `serve` does by default."""
    if context.invoked_subcommand is None:
        serve()


@cloud_app.command("serve")
def serve(
    repository: Annotated[
        str | None, typer.Option(help="Release repository: each device is offered its own model's newest.")
    ] = None,
    bundle: Annotated[list[Path] | None, typer.Option(help="Folder of a bundle that answers unsure devices.")] = None,
    database: _Database = None,
    host: str = "127.0.0.1",
    port: int = 8100,
) -> None:
    """Serve devices until interrupted."""
    from edgewright.cloud.serve import serve as run

    console.print(f"Serving devices at http://{host}:{port}; Ctrl-C stops.")
    run(database=database, repository=repository, bundles=bundle, host=host, port=port)


@cloud_app.command("add-device")
def add_device(name: str, database: _Database = None) -> None:
    """Register a device and print its token, which is shown this once."""
    from edgewright.cloud.serve import add_device as register

    typer.echo(register(name, database))


@cloud_app.command("add-operator")
def add_operator(name: str, database: _Database = None) -> None:
    """Register somebody who may list all devices, and print the token, which is shown this once."""
    from edgewright.cloud.serve import add_operator as register

    typer.echo(register(name, database))
