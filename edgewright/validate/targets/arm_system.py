"""The Debian systems that emulated Arm cores run: Python, and the inference runtimes built for that architecture."""

import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Literal

from edgewright.errors import UnsupportedError
from edgewright.store import Store, home
from edgewright.validate.targets import debian

__all__ = [
    "PACKAGES",
    "SYSTEMS",
    "Architecture",
    "ArmSystem",
    "is_set_up",
    "missing_tools",
    "qemu_major",
    "set_up",
    "versions_tag",
]

Architecture = Literal["arm64", "armv7"]

PACKAGES = ("python3", "libpython3-stdlib", "libc6", "libstdc++6", "libgomp1", "ca-certificates")
_RUNTIMES = ("onnxruntime", "ai-edge-litert", "numpy")
# The last release with a wheel for armv7 (2023). It was built against NumPy 1, of which PyPI has no armv7 wheel:
# Debian's own is taken.
_TFLITE_RUNTIME = "2.14.0"
_TFLITE_PLATFORM = "manylinux_2_34_armv7l"


@dataclass(frozen=True)
class ArmSystem:
    """How one architecture is emulated: qemu's program, Debian's name, and the file formats that run there."""

    qemu: str
    debian: str
    packages: tuple[str, ...]
    formats: frozenset[str]


SYSTEMS: dict[Architecture, ArmSystem] = {
    "arm64": ArmSystem("qemu-aarch64", "arm64", PACKAGES, frozenset({"onnx", "tflite"})),
    "armv7": ArmSystem("qemu-arm", "armhf", (*PACKAGES, "python3-numpy"), frozenset({"tflite"})),
}
_TOOLS = {"qemu-aarch64": "qemu-user", "qemu-arm": "qemu-user", "mmdebstrap": "mmdebstrap", "gcc": "gcc"}


def missing_tools() -> str | None:
    """Why an Arm core cannot be emulated here, in one line; None where it can."""
    if reason := debian.missing(_TOOLS):
        return reason
    major = qemu_major()
    if not 6 <= major < 9:
        return f"qemu {major} has another plugin interface than 6 to 8, for which the instruction counter is written"
    return None


@cache
def qemu_major() -> int:
    """qemu's major version; 0 where it says none."""
    stdout = subprocess.run(
        [debian.tool("qemu-aarch64"), "--version"], capture_output=True, text=True, check=True
    ).stdout
    match = re.search(r"version (\d+)", stdout)
    return int(match.group(1)) if match else 0


def is_set_up(architecture: Architecture) -> bool:
    """Whether a model can be emulated without fetching anything."""
    return missing_tools() is None and _root(architecture).is_dir()


def versions_tag(architecture: Architecture) -> str:
    """Debian's and the runtimes' versions: another one is another system."""
    if architecture == "armv7":
        return f"{debian.SUITE}-{_TFLITE_RUNTIME}"
    return "-".join((debian.SUITE, *(metadata.version(name) for name in _RUNTIMES)))


def _root(architecture: Architecture) -> Path:
    return home() / "targets" / f"{architecture}-{versions_tag(architecture)}"


def set_up(architecture: Architecture) -> Path:
    """The root file system, made once and kept: no Arm code runs for it, and no root rights are needed.

    Raises:
        UnsupportedError: a tool is missing; says which package has it.
        TransientError: Debian's or Python's package servers did not answer.
    """
    if reason := missing_tools():
        raise UnsupportedError(f"emulated Arm target: {reason}")
    root, system = _root(architecture), SYSTEMS[architecture]
    if root.is_dir():
        return root
    with Store().workspace() as scratch:
        staged = scratch / "root"
        debian.unpack(system.packages, system.debian, staged)
        if architecture == "armv7":
            _add_tflite_runtime(staged, scratch)
        else:
            _add_runtimes(staged)
        debian.place(staged, root)
    return root


def _add_runtimes(system: Path) -> None:
    # The versions of this machine, so that a difference between the two is not one of releases.
    versions = [f"{name}=={metadata.version(name)}" for name in _RUNTIMES]
    where: list[str | Path] = ["--target", system / "opt/rt", "--python-platform", "aarch64-manylinux_2_28"]
    debian.fetch(
        [debian.uv(), "pip", "install", "-q", *where, *_python("--python-version"), *versions], "the arm64 runtimes"
    )


def _add_tflite_runtime(system: Path, scratch: Path) -> None:
    """By pip: uv knows no 32-bit Arm (`uv pip install --python-platform`)."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--platform", _TFLITE_PLATFORM]
    debian.fetch(
        [*command, *_python("--python-version"), "-d", scratch, f"tflite-runtime=={_TFLITE_RUNTIME}"],
        "tflite-runtime for armv7",
    )
    with zipfile.ZipFile(next(scratch.glob("tflite_runtime-*.whl"))) as wheel:
        wheel.extractall(system / "opt/rt")
    libraries = system / "usr/lib/arm-linux-gnueabihf"
    for name in ("blas", "lapack"):  # what Debian's alternatives system does when a package is configured
        (libraries / f"lib{name}.so.3").symlink_to(f"{name}/lib{name}.so.3")


def _python(option: str) -> tuple[str, ...]:
    return (option, debian.PYTHON, "--only-binary", ":all:")
