"""An emulated x86 core without VNNI (qemu-user): does a model run there, and does it answer as here."""

import platform
import sys
from dataclasses import dataclass
from typing import Literal

from edgewright.errors import UnsupportedError
from edgewright.validate.targets import debian
from edgewright.validate.targets.local import run_bench
from edgewright_runtime.bench.answer import BenchAnswer
from edgewright_runtime.bench.run import BenchSpec

__all__ = ["HASWELL", "EmulatedX86", "missing_tool"]

HASWELL: Literal["haswell"] = "haswell"
"""AVX2, no VNNI: what most x86 devices before 2021 are."""
_QEMU = "qemu-x86_64"


def missing_tool() -> str | None:
    """Why no x86 core can be emulated here, in one line; None where it can: by this very interpreter."""
    if platform.machine() != "x86_64":
        return f"an x86 core is emulated on x86-64, by its own runtimes; this is {platform.machine()}"
    return debian.missing({_QEMU: "qemu-user"})


@dataclass(frozen=True)
class EmulatedX86:
    """One such core; it runs this machine's Python and inference runtimes."""

    core: str = HASWELL
    emulated: bool = True
    own_memory: bool = False

    @property
    def name(self) -> str:
        """How reports call it."""
        return f"{self.core}, x86 without VNNI, emulated (qemu-user)"

    def run(self, spec: BenchSpec, what: str, timeout_s: float) -> BenchAnswer[object]:
        """See `Target.run`; times in the answer are the emulator's, not a device's.

        Raises:
            UnsupportedError: it cannot be emulated here.
        """
        if reason := missing_tool():
            raise UnsupportedError(reason)
        # qemu writes its models with a capital: Haswell.
        return run_bench(
            spec, what, timeout_s, interpreter=(debian.tool(_QEMU), "-cpu", self.core.title(), sys.executable)
        )
