"""A whole emulated arm64 device with its memory and cores, reached over SSH on loopback.

Its memory pressure is real, its clock is not: it answers whether a model runs and fits there, never how fast. One
boot lasts as long as the context; what was written to its disk is gone afterwards, and survives its reboots before.
"""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from edgewright.errors import DeviceUnreachableError, UnsupportedError
from edgewright.profile import DeviceProfile, SshConnection
from edgewright.scratch import scratch_folder, system_scratch
from edgewright.validate.targets import debian
from edgewright.validate.targets.device_image import READY, DeviceImage, set_up
from edgewright.validate.targets.ssh import SshTarget

__all__ = ["booted", "booted_as"]

_BOOT_S = 120
_POLL_S = 0.1
_LOG_LINES = 3


def booted_as(device: DeviceProfile) -> AbstractContextManager[SshTarget]:
    """The profile's device: its emulated core, its memory, its cores.

    Raises:
        UnsupportedError: the profile names no 64-bit core to emulate it by.
    """
    if device.emulated_core is None or device.emulated_core in {"cortex-a7", "haswell"}:
        raise UnsupportedError(f"{device.name}: a whole device is emulated with a 64-bit emulated_core; it has none")
    return booted(device.emulated_core, device.memory_mb, device.cores)


@contextmanager
def booted(core: str, memory_mb: int, cores: int) -> Iterator[SshTarget]:
    """A device from power-on to power-off.

    Raises:
        UnsupportedError: nothing here emulates one; says what is missing.
        DeviceUnreachableError: it did not come up.
    """
    image = set_up()
    with scratch_folder(system_scratch()) as folder:
        port, log = _free_port(), folder / "console.log"
        trusted = folder / "known_hosts"
        trusted.write_text(f"[127.0.0.1]:{port} {image.host_key}\n")
        connection = SshConnection(host="127.0.0.1", port=port, user="root", key=image.key, known_hosts=trusted)
        with log.open("wb") as console:
            machine = subprocess.Popen(
                _command(image, core, memory_mb, cores, port),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env={"TMPDIR": str(folder), "PATH": "/usr/bin:/bin"},  # the disk's layer of this run lies there
            )
        try:
            _await(machine, log)
            label = f"an emulated device ({cores} x {core}, {memory_mb} MB, qemu-system)"
            yield SshTarget(connection, emulated=True, label=label)
        finally:
            # Without a shutdown: what it wrote is gone with its layer of the disk.
            machine.kill()
            machine.wait()


def _command(image: DeviceImage, core: str, memory_mb: int, cores: int, port: int) -> list[str]:
    """qemu-system-aarch64(1). The guest reaches nothing: ``restrict`` leaves only the forwarded port of its SSH."""
    # The machine then ends with this process, however that ends.
    die_with_us = [setpriv, "--pdeathsig", "KILL"] if (setpriv := shutil.which("setpriv")) else []
    return [
        *die_with_us,
        debian.tool("qemu-system-aarch64"),
        *("-M", "virt", "-cpu", core, "-smp", str(cores), "-m", str(memory_mb), "-accel", "tcg,thread=multi"),
        *("-nodefaults", "-display", "none", "-serial", "stdio"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initramfs)),
        *("-append", "console=ttyAMA0 quiet panic=-1"),
        *(
            "-drive",
            # snapshot=on: writes go to a file in TMPDIR, so the image serves every run.
            f"if=none,id=disk,format=raw,snapshot=on,file={image.disk}",
            "-device",
            "virtio-blk-device,drive=disk",
        ),
        *(
            "-netdev",
            f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22",
            "-device",
            "virtio-net-device,netdev=net",
        ),
    ]


def _await(machine: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until the device says that its SSH server listens; knocking would not tell, qemu itself takes connections."""
    ends = time.monotonic() + _BOOT_S
    while time.monotonic() < ends and machine.poll() is None:
        if READY in log.read_text(errors="replace"):
            return
        time.sleep(_POLL_S)
    last = " / ".join(log.read_text(errors="replace").strip().splitlines()[-_LOG_LINES:]) or "its console is silent"
    raise DeviceUnreachableError(f"the emulated device did not come up: {last}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
