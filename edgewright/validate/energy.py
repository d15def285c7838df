"""What one inference uses: by the target's own meter, else estimated where the profile allows it, else nothing."""

from collections.abc import Sequence

from edgewright.measurement import Emulation, Energy, Sustained
from edgewright.profile import DeviceProfile

__all__ = ["energy_of"]


def energy_of(sustained: Sustained | None, emulations: Sequence[Emulation], device: DeviceProfile) -> Energy | None:
    """The meter's answer; else executed instructions times the profile's joules of one, said to be an estimate."""
    if sustained is not None and sustained.energy is not None:
        return sustained.energy
    counted = next((emulation.instructions for emulation in emulations if emulation.instructions is not None), None)
    if counted is None or device.joules_per_instruction is None:
        return None
    each = device.joules_per_instruction
    return Energy(
        joules=counted.total * each,
        source=f"{counted.total:,} instructions on {counted.core} at {each:.3g} J each",
        estimated=True,
    )
