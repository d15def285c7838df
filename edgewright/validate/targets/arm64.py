"""An emulated 64-bit Arm core (qemu-user): does a model run there, does it agree, how many instructions does it take.

Emulated time is 50 to 700 times the real one and means nothing; executed instructions are exact. They rank models and
gate regressions; they are not cycles.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from edgewright.artifact import digest_of
from edgewright.errors import TransientError, UnsupportedError
from edgewright.store import Store, home
from edgewright.validate.targets.local import run_bench
from edgewright_runtime.bench import MARK, BenchSpec

__all__ = ["CORES", "Core", "EmulatedArm", "is_set_up", "missing_tools", "set_up"]

Core = Literal["cortex-a53", "cortex-a72", "cortex-a76"]

_BASE = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
# Part number and features, as Linux shows them (Arm Technical Reference Manuals, MIDR_EL1 and ID_AA64ISAR0_EL1).
# ONNX Runtime reads them from /proc/cpuinfo and crashes at import on one that is not Arm's.
CORES: dict[Core, tuple[str, str]] = {
    "cortex-a53": ("0xd03", _BASE),
    "cortex-a72": ("0xd08", _BASE),
    "cortex-a76": ("0xd0b", f"{_BASE} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"),
}
_RUNTIMES = ("onnxruntime", "ai-edge-litert", "numpy")
_SYSTEM = "python3,libpython3-stdlib,libc6,libstdc++6,libgomp1,ca-certificates"
_SUITE = "bookworm"
_PYTHON = "3.11"  # bookworm's
_TOOLS = {"qemu-aarch64": "qemu-user", "mmdebstrap": "mmdebstrap", "gcc": "gcc"}
_PLUGIN_SOURCE = Path(__file__).with_name("instructions.c")
_SHARED = ("usr", "bin", "lib", "etc", "opt")


@dataclass(frozen=True)
class EmulatedArm:
    """One core under qemu-user, with ONNX Runtime and LiteRT for aarch64 Linux in the root file system ``root``."""

    core: Core
    root: Path
    emulated: bool = True

    @property
    def name(self) -> str:
        """How reports call it."""
        return f"{self.core}, emulated (qemu-user)"

    def run(self, spec: BenchSpec, what: str, timeout_s: float) -> dict[str, Any]:
        """See `Target.run`; times in the answer are the emulator's, not a device's."""
        return self._run(spec, what, timeout_s, ())

    def instructions(self, spec: BenchSpec, what: str, timeout_s: float = 600) -> dict[str, int]:
        """Executed instructions of one warm inference, by class: the least of ``spec.min_runs`` runs.

        What the call itself takes where nothing is between two marks is subtracted; the device runtime's own
        Python loop is not: it is part of an inference there.
        """
        with Store().workspace() as scratch:
            counts = scratch / "counts.txt"
            plugin = _plugin(self.root)
            self._run(spec, what, timeout_s, ("-plugin", f"{plugin},out={counts}"))
            marks = [[int(n) for n in line.split()] for line in counts.read_text().splitlines()]
        taken = [[after - before for before, after in zip(a, b, strict=True)] for a, b in pairwise(marks)]
        *runs, empty = taken
        least = min(runs, key=sum)
        names = ("integer", "simd", "load_store", "branch")
        return {name: max(0, n - e) for name, n, e in zip(names, least, empty, strict=True)}

    def _run(self, spec: BenchSpec, what: str, timeout_s: float, options: tuple[str, ...]) -> dict[str, Any]:
        folder = _core_folder(self.root, self.core)
        return run_bench(
            spec,
            what,
            timeout_s,
            interpreter=(
                _tool("qemu-aarch64"),
                "-cpu",
                self.core,
                *options,
                "-L",
                str(folder),
                str(folder / "usr/bin/python3"),
            ),
            # One Python has another's compiled files in its path otherwise, and writes its own beside them.
            environment={"PYTHONPATH": f"{self.root}/opt/rt:{_checkout()}", "PYTHONDONTWRITEBYTECODE": "1"},
        )


def missing_tools() -> str | None:
    """Why an Arm core cannot be emulated here, in one line; None where it can."""
    if sys.platform != "linux":
        return f"emulating Arm needs Linux; this is {platform.system()}"
    missing = [(tool, package) for tool, package in _TOOLS.items() if shutil.which(tool) is None]
    if missing:
        packages = " ".join(package for _, package in missing)
        return f"not found: {', '.join(tool for tool, _ in missing)} (Debian: apt-get install {packages})"
    major = _qemu_major()
    if not 6 <= major < 9:
        return f"qemu {major} has another plugin interface than 6 to 8, for which the instruction counter is written"
    return None


def _tool(name: str) -> str:
    return shutil.which(name) or name


@cache
def _qemu_major() -> int:
    said = subprocess.run([_tool("qemu-aarch64"), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\d+)", said)
    return int(found.group(1)) if found else 0


def is_set_up() -> bool:
    """Whether a model can be emulated without fetching anything."""
    return missing_tools() is None and _root().is_dir()


def _versions() -> list[str]:
    return [f"{name}=={metadata.version(name)}" for name in _RUNTIMES]


def _root() -> Path:
    return home() / "targets" / f"arm64-{_SUITE}-{'-'.join(v.partition('==')[2] for v in _versions())}"


def set_up(*, timeout_s: float = 900) -> Path:
    """The root file system, made once and kept: no Arm code runs for it, and no root rights are needed.

    Raises:
        UnsupportedError: a tool is missing; says which package has it.
        TransientError: Debian's or Python's package servers did not answer.
    """
    if reason := missing_tools():
        raise UnsupportedError(f"emulated Arm target: {reason}")
    versions, root = _versions(), _root()
    if root.is_dir():
        return root
    with Store().workspace() as scratch:
        staged = scratch / "root"
        mode = "root" if _is_root() else "unshare"
        _fetch(
            [
                _tool("mmdebstrap"),
                f"--mode={mode}",
                "--variant=extract",
                "--arch=arm64",
                f"--include={_SYSTEM}",
                _SUITE,
                staged,
            ],
            "Debian's arm64 packages",
            timeout_s,
        )
        where: list[str | Path] = ["--target", staged / "opt/rt", "--python-platform", "aarch64-manylinux_2_28"]
        _fetch(
            [_uv(), "pip", "install", "-q", *where, "--python-version", _PYTHON, "--only-binary", ":all:", *versions],
            "the arm64 runtimes",
            timeout_s,
        )
        root.parent.mkdir(parents=True, exist_ok=True)
        staged.replace(root)
    return root


def _fetch(command: list[str | Path], what: str, timeout_s: float) -> None:
    try:
        subprocess.run([str(part) for part in command], check=True, capture_output=True, timeout=timeout_s)
    except subprocess.TimeoutExpired as e:
        raise TransientError(f"emulated Arm target: fetching {what} took more than {timeout_s:g} s") from e
    except subprocess.CalledProcessError as e:
        lines = e.stderr.decode(errors="replace").strip().splitlines()
        raise TransientError(f"emulated Arm target: fetching {what} failed: {lines[-1] if lines else e}") from e


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise UnsupportedError("emulated Arm target: uv is not installed (make setup installs it)")
    return found


def _is_root() -> bool:
    return os.geteuid() == 0


def _checkout() -> Path:
    return Path(__file__).parents[3]


def _core_folder(root: Path, core: Core) -> Path:
    """The root file system as one core sees it: the same files, its own /proc/cpuinfo."""
    folder = root / "cores" / core
    if not folder.is_dir():
        part, features = CORES[core]
        (root / "cores").mkdir(exist_ok=True)
        with Store().workspace() as scratch:
            staged = scratch / core
            (staged / "proc").mkdir(parents=True)
            for name in _SHARED:
                (staged / name).symlink_to(root / name)
            (staged / "proc" / "cpuinfo").write_text(_CPUINFO.format(features=features, part=part))
            if not folder.is_dir():
                staged.replace(folder)
    return folder


_CPUINFO = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: {features}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 3
"""


def _plugin(root: Path) -> Path:
    """The instruction counter, compiled once for this machine."""
    built = root.parent / f"instructions-{digest_of(_PLUGIN_SOURCE)[:12]}-{_qemu_major()}.so"
    if not built.exists():
        with Store().workspace() as scratch:
            staged = scratch / built.name
            command = [
                _tool("gcc"),
                "-O2",
                "-fPIC",
                "-shared",
                f"-DMARK={MARK:#x}",
                "-o",
                str(staged),
                str(_PLUGIN_SOURCE),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise UnsupportedError(f"the instruction counter does not compile: {done.stderr.strip()[:300]}")
            staged.replace(built)
    return built
