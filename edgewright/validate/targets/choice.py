"""Which target a device profile means, opened for one measurement at a time."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from edgewright.locks import locked
from edgewright.profile import DeviceProfile
from edgewright.store import home
from edgewright.validate.core_ml_units import units_of
from edgewright.validate.targets import Target
from edgewright.validate.targets.adb import AdbPythonTarget, AdbTarget
from edgewright.validate.targets.core_ml import CoreMLTarget
from edgewright.validate.targets.emulated_device import booted_as
from edgewright.validate.targets.local import LocalTarget
from edgewright.validate.targets.ssh import SshTarget

__all__ = ["THIS_MACHINE", "alone_on", "machine_of", "opened", "target_of"]

THIS_MACHINE = "this machine"


@contextmanager
def opened(device: DeviceProfile) -> Iterator[Target]:
    """The profile's target, nobody else's until the context ends: two measurements on one machine disturb each other.

    Waits for whoever holds it, in this process or another one of the same home.

    Raises:
        DeviceUnreachableError: an emulated device did not come up.
        UnsupportedError: nothing here emulates one.
    """
    with alone_on(machine_of(device)), ExitStack() as stack:
        yield stack.enter_context(booted_as(device)) if device.target_kind == "emulated_device" else target_of(device)


def target_of(device: DeviceProfile) -> Target:
    """The board or phone that the profile names; Core ML for iOS; else this machine, bounded by the device's memory."""
    kind = device.target_kind
    if kind == "core_ml":
        return CoreMLTarget(units_of(device))
    if kind == "ssh" and device.ssh is not None:
        return SshTarget(device.ssh)
    if kind == "adb" and device.adb is not None:
        return AdbPythonTarget(device.adb) if device.adb.python else AdbTarget(device.adb)
    return LocalTarget(memory_mb=device.memory_mb)


def machine_of(device: DeviceProfile) -> str:
    """Which machine is busy while this device is measured: a board or a phone is its own, all else is this one."""
    kind = device.target_kind
    if kind == "ssh" and device.ssh is not None:
        return f"ssh {device.ssh.host}:{device.ssh.port}"
    if kind == "adb" and device.adb is not None:
        return f"adb {device.adb.serial or ''}"
    return THIS_MACHINE


@contextmanager
def alone_on(machine: str) -> Iterator[None]:
    """A file lock: it works without a server, between processes and between threads, and dies with its holder."""
    with locked(home() / "locks" / hashlib.sha256(machine.encode()).hexdigest()[:16]):
        yield
