"""Core ML on this Mac: what no other system runs. Elsewhere every task is refused by name, and nothing is invented."""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edgewright.errors import UnsupportedError
from edgewright.profile import DeviceProfile
from edgewright.validate.targets.local import run_bench
from edgewright_runtime.bench import BenchSpec

if TYPE_CHECKING:  # started by its name
    import edgewright.validate.core_ml_bench  # noqa: F401

__all__ = ["NOT_HERE", "UNITS", "ComputeUnits", "CoreMLTarget", "is_here", "units_of"]

ComputeUnits = Literal["ALL", "CPU_AND_NE", "CPU_AND_GPU"]
NOT_HERE = "Core ML runs on macOS and iOS only"
UNITS: dict[ComputeUnits, str] = {
    "ALL": "CPU, GPU and Neural Engine",
    "CPU_AND_NE": "CPU and Neural Engine",
    "CPU_AND_GPU": "CPU and GPU",
}


def is_here() -> bool:
    """Whether this machine has Core ML."""
    return sys.platform == "darwin"


def units_of(device: DeviceProfile) -> ComputeUnits:
    """What the profile's accelerators let Core ML use; all that there is where the profile names none."""
    named = {"neural_engine", "gpu"} & set(device.accelerators)
    if named == {"neural_engine"}:
        return "CPU_AND_NE"
    return "CPU_AND_GPU" if named == {"gpu"} else "ALL"


@dataclass(frozen=True)
class CoreMLTarget:
    """This Mac, for ``.mlpackage`` files; ``units`` is a name of `coremltools.ComputeUnit`.

    Core ML chooses its own threads, and macOS bounds the memory of no process: neither is enforced.
    """

    units: ComputeUnits = "ALL"
    emulated: bool = False
    own_memory: bool = True

    @property
    def name(self) -> str:
        """How reports call it."""
        return f"Core ML on this Mac ({UNITS[self.units]} allowed; memory not bounded)" if is_here() else "no Mac here"

    def run(self, spec: BenchSpec, what: str, timeout_s: float) -> dict[str, Any]:
        """See `Target.run`; the task ``compute_plan`` too."""
        if not is_here():
            raise UnsupportedError(f"{what}: {NOT_HERE}")
        if other := {model.format for model in spec.models} - {"mlpackage"}:
            raise UnsupportedError(f"{what}: Core ML reads .mlpackage folders, not {', '.join(sorted(other))}")
        return run_bench(spec, what, timeout_s, program=("edgewright.validate.core_ml_bench", self.units))
