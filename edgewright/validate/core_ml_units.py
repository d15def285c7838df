"""Whether Core ML is here, and which of its compute units a device lets it use."""

import sys
from typing import Literal

from edgewright.profile import DeviceProfile

__all__ = ["NOT_HERE", "UNITS", "ComputeUnits", "is_here", "units_of"]

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
