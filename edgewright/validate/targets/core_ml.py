"""Core ML on this Mac: what no other system runs. Elsewhere every task is refused by name, and nothing is invented."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgewright.errors import UnsupportedError
from edgewright.validate import core_ml_units
from edgewright.validate.core_ml_units import NOT_HERE, UNITS, ComputeUnits
from edgewright.validate.targets.local import run_bench
from edgewright_runtime.bench.answer import BenchAnswer
from edgewright_runtime.bench.run import BenchSpec

if TYPE_CHECKING:  # started by its name
    import edgewright.validate.core_ml_bench  # noqa: F401

__all__ = ["CoreMLTarget"]


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
        return (
            f"Core ML on this Mac ({UNITS[self.units]} allowed; memory not bounded)"
            if core_ml_units.is_here()
            else "no Mac here"
        )

    def run(self, spec: BenchSpec, what: str, timeout_s: float) -> BenchAnswer[object]:
        """See `Target.run`; the task ``compute_plan`` too."""
        if not core_ml_units.is_here():
            raise UnsupportedError(f"{what}: {NOT_HERE}")
        if other := {model.format for model in spec.models} - {"mlpackage"}:
            raise UnsupportedError(f"{what}: Core ML reads .mlpackage folders, not {', '.join(sorted(other))}")
        return run_bench(spec, what, timeout_s, program=("edgewright.validate.core_ml_bench", self.units))
