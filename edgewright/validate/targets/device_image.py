"""What the emulated device boots from: Debian's arm64 kernel, a small initramfs, and a disk with the runtimes.

All of it is made without root rights; the two Arm programs that are asked (dropbear's for its key, busybox for its
commands' names) run under qemu-user.
"""

import hashlib
import shutil
import struct
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgewright.errors import UnsupportedError
from edgewright.store import Store, home
from edgewright.validate.targets import arm_system, debian

__all__ = ["READY", "DeviceImage", "is_set_up", "missing_tools", "set_up"]

READY = "edgewright: ready"  # as device_init.sh says it on the console
_TOOLS = {
    "qemu-system-aarch64": "qemu-system-arm",
    "mkfs.ext4": "e2fsprogs",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
}
_PACKAGES = (*arm_system.PACKAGES, "linux-image-arm64", "busybox-static", "dropbear-bin")
# In the order of what needs what; the rest that a device of qemu's `virt` machine needs is built into Debian's kernel.
_MODULES = (
    "drivers/virtio/virtio_mmio",
    "drivers/block/virtio_blk",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
    "crypto/crc32c_generic",
    "lib/crc16",
    "fs/mbcache",
    "fs/jbd2/jbd2",
    "fs/ext4/ext4",
)
_PRUNED = ("boot", "lib/modules", "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info")
_FREE_MB = 512  # of the disk: what a device has beside its system
_HERE = Path(__file__).parent
_INITRAMFS_INIT, _INIT = "device_initramfs.sh", "device_init.sh"


@dataclass(frozen=True)
class DeviceImage:
    """Files below one folder; ``known_hosts`` names the device's own key for any port of loopback."""

    folder: Path

    @property
    def kernel(self) -> Path:
        """Debian's, for arm64."""
        return self.folder / "vmlinuz"

    @property
    def initramfs(self) -> Path:
        """Load the modules of the disk and the network."""
        return self.folder / "initramfs"

    @property
    def disk(self) -> Path:
        """ext4, never written: each run has a layer of its own above it."""
        return self.folder / "disk.img"

    @property
    def key(self) -> Path:
        """The private key of the one user that may log in."""
        return self.folder / "user_key"

    @property
    def host_key(self) -> str:
        """The device's public key, as in known_hosts."""
        return (self.folder / "host_key.pub").read_text().strip()


def missing_tools() -> str | None:
    """Why a device cannot be emulated here, in one line; None where it can."""
    return debian.missing(_TOOLS) or arm_system.missing_tools()


def is_set_up() -> bool:
    """Whether a device can be booted without fetching anything."""
    return missing_tools() is None and _folder().is_dir()


def _folder() -> Path:
    made_by = b"".join(path.read_bytes() for path in (Path(__file__), _HERE / _INITRAMFS_INIT, _HERE / _INIT))
    tag = hashlib.sha256(made_by).hexdigest()[:8]
    return home() / "targets" / f"device-{arm_system.versions_tag('arm64')}-{tag}"


def set_up() -> DeviceImage:
    """The image, made once and kept.

    Raises:
        UnsupportedError: a tool is missing; says which package has it.
        TransientError: Debian's or Python's package servers did not answer.
    """
    if reason := missing_tools():
        raise UnsupportedError(f"emulated device: {reason}")
    image = DeviceImage(_folder())
    if image.folder.is_dir():
        return image
    runtimes = arm_system.set_up("arm64") / "opt/rt"
    with Store().workspace() as scratch:
        system, staged = scratch / "system", DeviceImage(scratch / "image")
        staged.folder.mkdir()
        debian.unpack(_PACKAGES, "arm64", system)
        # Before /boot and /lib/modules are pruned.
        shutil.copyfile(next((system / "boot").glob("vmlinuz-*")), staged.kernel)
        staged.initramfs.write_bytes(_initramfs(system))
        for name in _PRUNED:
            shutil.rmtree(system / name, ignore_errors=True)
        shutil.copytree(runtimes, system / "opt/rt", symlinks=True)
        _make_keys(staged, system)
        _configure(system, (staged.folder / "user_key.pub").read_text())
        _make_disk(system, staged.disk)
        debian.place(staged.folder, image.folder)
    return image


def _make_keys(image: DeviceImage, system: Path) -> None:
    """A key for the user, by ssh-keygen, and one for the host, by dropbear's own program under emulation."""
    _run([debian.tool("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "edgewright", "-f", str(image.key)])
    (system / "etc/dropbear").mkdir(parents=True)
    host_key = system / "etc/dropbear/host_key"
    stdout = _run(
        [
            debian.tool("qemu-aarch64"),
            "-L",
            str(system),
            str(system / "usr/bin/dropbearkey"),
            *("-t", "ed25519", "-f", str(host_key)),
        ]
    )
    public = next(line for line in stdout.splitlines() if line.startswith("ssh-ed25519 "))
    (image.folder / "host_key.pub").write_text(" ".join(public.split()[:2]) + "\n")


def _configure(system: Path, user_key: str) -> None:
    """What packages' own scripts would have done, as far as one SSH server and one Python need it."""
    files = {
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
        "etc/group": "root:x:0:\n",
        "etc/shells": "/bin/sh\n",
        "etc/hosts": "127.0.0.1 localhost device\n",
        "root/.ssh/authorized_keys": user_key,
        "usr/lib/python3/dist-packages/edgewright.pth": "/opt/rt\n",
        "sbin/edgewright-init": (_HERE / _INIT).read_text(),
    }
    for name, content in files.items():
        path = system / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (system / "sbin/edgewright-init").chmod(0o755)
    for name in ("root", "root/.ssh"):
        (system / name).chmod(0o700)
    for name in ("proc", "sys", "dev", "run", "tmp"):
        (system / name).mkdir(exist_ok=True)
    _link_busybox(system)


def _link_busybox(system: Path) -> None:
    """Each of busybox's commands that no package brought (sh, mount, ip, ...)."""
    busybox = system / "bin/busybox"
    # Asked of the program itself, as builds differ in what they hold.
    for name in _run([debian.tool("qemu-aarch64"), str(busybox), "--list"]).split():
        if not any((system / folder / name).exists() for folder in ("bin", "sbin", "usr/bin", "usr/sbin")):
            (system / "bin" / name).symlink_to("busybox")


def _make_disk(system: Path, disk: Path) -> None:
    used_mb = sum(p.lstat().st_size for p in system.rglob("*") if not p.is_symlink()) >> 20
    with disk.open("wb") as stream:
        # Room for ext4's own tables beside the files; the space is not taken here before it is written.
        stream.truncate((int(used_mb * 1.15) + _FREE_MB) << 20)
    # The files may be any user's here; there they are root's.
    owner = ["-E", "root_owner=0:0", "-d", str(system)]
    _run([debian.tool("mkfs.ext4"), "-q", "-F", "-m", "0", *owner, str(disk)])


def _initramfs(system: Path) -> bytes:
    modules = next((system / "lib/modules").iterdir()) / "kernel"
    files = [
        ("bin/busybox", (system / "bin/busybox").read_bytes()),
        ("init", (_HERE / _INITRAMFS_INIT).read_bytes()),
        ("modules/order", " ".join(f"{Path(name).name}.ko" for name in _MODULES).encode()),
        *((f"modules/{Path(name).name}.ko", (modules / f"{name}.ko").read_bytes()) for name in _MODULES),
    ]
    return _cpio(["bin", "dev", "modules", "proc", "root", "sys"], files)


_FOLDER, _PROGRAM = 0o040755, 0o100755


def _cpio(folders: Iterable[str], files: Iterable[tuple[str, bytes]]) -> bytes:
    """An archive in the "new ASCII" form, the one that Linux unpacks (Documentation/driver-api/early-userspace)."""
    entries = [(name, _FOLDER, b"") for name in folders] + [(name, _PROGRAM, content) for name, content in files]
    archive = b"".join(_entry(number, *entry) for number, entry in enumerate(entries, 1))
    return archive + _entry(0, "TRAILER!!!", 0, b"")


def _entry(number: int, name: str, mode: int, content: bytes) -> bytes:
    # Number, mode, user, group, links, time, size, device (2), what it is a device of (2), length of the name,
    # checksum.
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return _padded(head) + _padded(content)


def _padded(content: bytes) -> bytes:
    return content + b"\0" * (-len(content) % struct.calcsize("I"))


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise UnsupportedError(
            f"emulated device: {Path(command[0]).name} failed: {lines[-1] if lines else 'no reason'}"
        )
    return done.stdout
