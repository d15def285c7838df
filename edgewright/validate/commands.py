"""``edgewright target``: what stands for a device that is not here."""

from typing import Annotated, Literal

import typer
from rich.console import Console

from edgewright.validate.targets import arm64

__all__ = ["target_app"]

target_app = typer.Typer(no_args_is_help=True, help="Machines that stand for a device.")
console = Console()


@target_app.callback()
def _group() -> None:
    """Keep `setup` a command of its own name, though it is the only one."""


@target_app.command("setup")
def set_up(kind: Annotated[Literal["arm64"], typer.Argument(help="arm64: emulated 64-bit Arm cores (qemu).")]) -> None:
    """Fetch the system that a target runs; done once, no root rights needed."""
    with console.status(f"Setting up {kind}"):
        root = arm64.set_up()
    console.print(f"{', '.join(arm64.CORES)} can be emulated; the system lies in {root}", soft_wrap=True)
