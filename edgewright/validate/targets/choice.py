"""Which target a device profile means, opened for one measurement at a time."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from edgewright.locks import locked
from edgewright.plugins import plugin, plugin_names
from edgewright.profile import TARGET_PLUGINS, DeviceProfile
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
    """The board or phone that the profile names; Core ML for iOS; what another distribution registered; else this
    machine, bounded by the device's memory.
    """
    kind = device.target_kind
    if kind == "core_ml":
        return CoreMLTarget(units_of(device))
    if kind == "ssh" and device.ssh is not None:
        return SshTarget(device.ssh)
    if kind == "adb" and device.adb is not None:
        return AdbPythonTarget(device.adb) if device.adb.python else AdbTarget(device.adb)
    if kind in plugin_names(TARGET_PLUGINS):
        make = plugin(TARGET_PLUGINS, kind, callable, "a function of a device profile that makes a target")
        registered: Target = make(device)
        return registered
    return LocalTarget(memory_mb=device.memory_mb)


def machine_of(device: DeviceProfile) -> str:
    """Which machine is busy while this device is measured: a board, a phone and what another distribution
    reaches are their own, all else is this one.
    """
    kind = device.target_kind
    if kind == "ssh" and device.ssh is not None:
        return f"ssh {device.ssh.host}:{device.ssh.port}"
    if kind == "adb" and device.adb is not None:
        return f"adb {device.adb.serial or ''}"
    if kind in plugin_names(TARGET_PLUGINS):
        return f"{kind} {json.dumps(device.target_options, sort_keys=True)}"
    return THIS_MACHINE


@contextmanager
def alone_on(machine: str) -> Iterator[None]:
    """A file lock: it works without a server, between processes and between threads, and dies with its holder."""
    # A digest, as the name of a machine may hold slashes and colons.
    with locked(home() / "locks" / hashlib.sha256(machine.encode()).hexdigest()[:16]):
        yield
