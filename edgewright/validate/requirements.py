"""What a file needs that a device does not have: found before anything runs."""

import re

from edgewright.artifact import Exported, Format, Precision
from edgewright.profile import DeviceProfile, Platform

__all__ = ["advice", "unmet"]

_FORMATS = {Platform.IOS: Format.MLPACKAGE, Platform.ANDROID: Format.TFLITE, Platform.EDGE_DEVICE: Format.ONNX}
_MB = 1 << 20


def unmet(exported: Exported, device: DeviceProfile) -> tuple[str, ...]:
    """Each requirement that the device cannot meet, in one line: what is needed, what is there, what to do.

    A device's floor is the oldest version in the field, so a file that needs a newer one fails on some of them.
    """
    reasons = []
    expected = _FORMATS[device.platform]
    if exported.artifact.format is not expected:
        reasons.append(f"{device.name} takes {expected.value} files; this is {exported.artifact.format.value}")
    if _version(exported.runtime_floor) > _version(device.runtime_floor):
        reasons.append(
            f"needs {exported.runtime} {exported.runtime_floor}; {device.name} may have {device.runtime_floor}: raise "
            "its runtime_floor, or export for an older version"
        )
    # What the system leaves to one application where that is known, else all that the device has.
    memory_mb = device.app_memory_mb or device.memory_mb
    size_mb = exported.artifact.size_bytes / _MB
    if size_mb > memory_mb:
        reasons.append(f"the file alone has {size_mb:.0f} MB; an application on {device.name} may hold {memory_mb} MB")
    return tuple(reasons)


def advice(exported: Exported, device: DeviceProfile) -> tuple[str, ...]:
    """What will run, and will disappoint or ask for more."""
    notes = []
    if device.instruction_set == "armv7" and exported.artifact.format is Format.ONNX:
        notes.append(
            f"{device.name} is 32-bit Arm, for which no ONNX Runtime is published: it needs a build of its own"
        )
    if exported.precision is Precision.INT8 and device.extensions and not device.dot_products:
        notes.append(
            f"{device.name} has no 8-bit dot product ({', '.join(device.extensions)}): int8 shrinks the file, and may "
            "not be faster; `emulate` counts what it executes"
        )
    return tuple(notes)


def _version(text: str) -> tuple[int, ...]:
    parts = [int(part) for part in re.findall(r"\d+", text)]
    # 17.0 is 17: as tuples the longer one would be the newer.
    while parts and not parts[-1]:
        parts.pop()
    return tuple(parts)
