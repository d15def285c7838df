"""Which target a device profile means."""

from edgewright.profile import DeviceProfile
from edgewright.validate.targets import Target
from edgewright.validate.targets.adb import AdbTarget
from edgewright.validate.targets.local import LocalTarget
from edgewright.validate.targets.ssh import SshTarget

__all__ = ["target_of"]


def target_of(device: DeviceProfile) -> Target:
    """The board or phone that the profile names, else this machine with the device's memory as its bound."""
    if device.ssh is not None:
        return SshTarget(device.ssh)
    if device.adb is not None:
        return AdbTarget(device.adb)
    return LocalTarget(memory_mb=device.memory_mb)
