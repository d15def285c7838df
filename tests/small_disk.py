"""A file system of its own for a test: as small as it asks for, filled to the last byte, or made read-only."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["fill", "mounted", "read_only"]


@contextmanager
def mounted(mount: Path, megabytes: int) -> Iterator[Path]:
    """A tmpfs at this folder; the test is skipped where none can be mounted."""
    mount.mkdir()
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("mounting a small file system needs root")
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(mount)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)  # noqa: S607


def fill(disk: Path) -> Path:
    """Take every byte that is free; returns the file to delete."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
        while stream.write(b"x" * 4096):
            pass
    assert shutil.disk_usage(disk).free == 0
    return ballast


def read_only(disk: Path, state: bool = True) -> None:
    """Remount the disk for reading alone, or for writing again."""
    subprocess.run(["mount", "-o", f"remount,{'ro' if state else 'rw'}", str(disk)], check=True)  # noqa: S607
