"""An emulated Arm core (qemu-user): does a model run there, does it agree, how many instructions does it take.

Emulated time is 50 to 700 times the real one and means nothing; executed instructions are exact. They rank models and
gate regressions; they are not cycles.
"""

import subprocess
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

from edgewright.artifact import digest_of
from edgewright.errors import UnsupportedError
from edgewright.measurement import Instructions
from edgewright.store import Store
from edgewright.validate.targets import debian
from edgewright.validate.targets.arm_system import SYSTEMS, Architecture, qemu_major
from edgewright.validate.targets.local import run_bench
from edgewright_runtime.bench.answer import BenchAnswer
from edgewright_runtime.bench.run import MARK, BenchSpec

__all__ = ["CORES", "Core", "EmulatedArm"]

Core = Literal["cortex-a7", "cortex-a53", "cortex-a72", "cortex-a76"]


class _CoreFacts(NamedTuple):
    """Part number and features, as Linux shows them (Arm Technical Reference Manuals, MIDR and the ID registers).

    ONNX Runtime reads them from /proc/cpuinfo and crashes at import on one that is not Arm's.
    """

    architecture: Architecture
    part: str
    features: str


_V7 = "half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm"
_V8 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
CORES: dict[Core, _CoreFacts] = {
    "cortex-a7": _CoreFacts("armv7", "0xc07", _V7),
    "cortex-a53": _CoreFacts("arm64", "0xd03", _V8),
    "cortex-a72": _CoreFacts("arm64", "0xd08", _V8),
    "cortex-a76": _CoreFacts("arm64", "0xd0b", f"{_V8} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"),
}
_PLUGIN_SOURCE = Path(__file__).with_name("instructions.c")
_GETPGID = {"arm64": 155, "armv7": 132}  # Linux: include/uapi/asm-generic/unistd.h, arch/arm/tools/syscall.tbl
_SHARED = ("usr", "bin", "lib", "etc", "opt")


@dataclass(frozen=True)
class EmulatedArm:
    """One core under qemu-user, with the runtimes of its architecture in the root file system ``root``."""

    core: Core
    root: Path
    emulated: bool = True
    own_memory: bool = False

    @property
    def name(self) -> str:
        """How reports call it."""
        return f"{self.core}, emulated (qemu-user)"

    def run(self, spec: BenchSpec, what: str, timeout_s: float) -> BenchAnswer[object]:
        """See `Target.run`; times in the answer are the emulator's, not a device's."""
        return self._run(spec, what, timeout_s, ())

    def instructions(self, spec: BenchSpec, what: str, timeout_s: float = 600) -> Instructions:
        """Executed instructions of one warm inference, by class: the least of ``spec.min_runs`` runs.

        What the call itself takes where nothing is between two marks is subtracted; the device runtime's own
        Python loop is not: it is part of an inference there.
        """
        with Store().workspace() as scratch:
            counts = scratch / "counts.txt"
            plugin = _plugin(self.root, CORES[self.core].architecture)
            self._run(spec, what, timeout_s, ("-plugin", f"{plugin},out={counts}"))
            marks = [[int(n) for n in line.split()] for line in counts.read_text().splitlines()]
        taken = [[after - before for before, after in zip(a, b, strict=True)] for a, b in pairwise(marks)]
        # Nothing lies between the last two marks: what a mark itself costs.
        *runs, empty = taken
        least = min(runs, key=sum)
        integer, simd, load_store, branch = (max(0, n - e) for n, e in zip(least, empty, strict=True))
        return Instructions(core=self.core, integer=integer, simd=simd, load_store=load_store, branch=branch)

    def _run(self, spec: BenchSpec, what: str, timeout_s: float, options: tuple[str, ...]) -> BenchAnswer[object]:
        folder, system = _core_folder(self.root, self.core), SYSTEMS[CORES[self.core].architecture]
        if foreign := {model.format for model in spec.models} - system.formats:
            raise UnsupportedError(
                f"{what}: no runtime for {', '.join(sorted(foreign))} files is built for {self.core}"
            )
        return run_bench(
            spec,
            what,
            timeout_s,
            interpreter=(
                debian.tool(system.qemu),
                # By its name: `-cpu max` has features whose kernels give wrong int8 results under qemu.
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


def _checkout() -> Path:
    return Path(__file__).parents[3]


def _core_folder(root: Path, core: Core) -> Path:
    """The root file system as one core sees it: the same files, its own /proc/cpuinfo."""
    folder = root / "cores" / core
    if not folder.is_dir():
        facts = CORES[core]
        with Store().workspace() as scratch:
            staged = scratch / core
            (staged / "proc").mkdir(parents=True)
            for name in _SHARED:
                (staged / name).symlink_to(root / name)
            (staged / "proc" / "cpuinfo").write_text(_cpuinfo(facts))
            debian.place(staged, folder)
    return folder


def _cpuinfo(facts: _CoreFacts) -> str:
    version = 7 if facts.architecture == "armv7" else 8
    return (
        f"processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: {facts.features}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: {version}\nCPU variant\t: 0x0\nCPU part\t: {facts.part}\nCPU revision\t: 3\n"
    )


def _plugin(root: Path, architecture: Architecture) -> Path:
    """The instruction counter, compiled once for this machine."""
    # Another counter, architecture or plugin interface is another file.
    built = root.parent / f"instructions-{digest_of(_PLUGIN_SOURCE)[:12]}-{architecture}-{qemu_major()}.so"
    if not built.exists():
        with Store().workspace() as scratch:
            staged = scratch / built.name
            command = [
                debian.tool("gcc"),
                "-O2",
                "-fPIC",
                "-shared",
                f"-DMARK={MARK:#x}",
                f"-DSYSCALL_GETPGID={_GETPGID[architecture]}",
                f"-DARMV7={int(architecture == 'armv7')}",
                "-o",
                str(staged),
                str(_PLUGIN_SOURCE),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise UnsupportedError(f"the instruction counter does not compile: {done.stderr.strip()[:300]}")
            # Moved into place when it is whole, since another process may be compiling it as well.
            staged.replace(built)
    return built
