"""``edgewright target``: what stands for a device that is not here."""

from typing import Annotated, Literal

import typer

from edgewright.terminal import terminal

__all__ = ["target_app"]

target_app = typer.Typer(no_args_is_help=True, help="Machines that stand for a device.")
console = terminal()


_KINDS = (
    "arm64: emulated 64-bit Arm cores, with ONNX Runtime and LiteRT. armv7: an emulated 32-bit core, with "
    "tflite-runtime. device: a whole emulated arm64 machine, reached over SSH."
)


@target_app.callback()
def _group() -> None:
    """Keep `setup` a command of its own name, though it is the only one."""


@target_app.command("setup")
def set_up(kind: Annotated[Literal["arm64", "armv7", "device"], typer.Argument(help=_KINDS)]) -> None:
    """Fetch the system that a target runs; done once, no root rights needed."""
    with console.status(f"Setting up {kind}"):
        message = _made(kind)
    console.print(message, soft_wrap=True)


def _made(kind: Literal["arm64", "armv7", "device"]) -> str:
    from edgewright.validate.targets import arm_system, device_image
    from edgewright.validate.targets.arm import CORES

    if kind == "device":
        return f"a whole arm64 device can be emulated; its kernel and disk lie in {device_image.set_up().folder}"
    root = arm_system.set_up(kind)
    cores = [core for core, facts in CORES.items() if facts.architecture == kind]
    return f"{', '.join(cores)} can be emulated; the system lies in {root}"
