"""Which processor figures hold for: measured times are kept, and never carried to another machine."""

import os
import platform
from functools import cache
from pathlib import Path

from edgewright.plugins import plugin_code, plugin_names
from edgewright.profile import TARGET_PLUGINS, DeviceProfile

__all__ = ["machine", "measured_by"]


@cache
def machine() -> str:
    """Processor model and the number of cores this process may use, such as ``"AMD EPYC, 2 cores"``.

    On a Mac the system's version too: Core ML comes with it.
    """
    # Affinity, since a container may let a process use fewer cores than the machine has.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    system = f", macOS {version}" if (version := platform.mac_ver()[0]) else ""
    return f"{_processor()}, {cores} cores{system}"


def measured_by(device: DeviceProfile) -> str:
    """What else than the files and the profile decides the figures: this machine, and the code of a plugin's target."""
    kind = device.target_kind
    code = f", {kind} {plugin_code(TARGET_PLUGINS, kind)}" if kind in plugin_names(TARGET_PLUGINS) else ""
    return f"{machine()}{code}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
