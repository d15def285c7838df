"""A Debian system of another processor, fetched and unpacked without running any of its code."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgewright.errors import TransientError, UnsupportedError

__all__ = ["PYTHON", "SUITE", "fetch", "missing", "place", "tool", "unpack", "uv"]

SUITE = "bookworm"
PYTHON = "3.11"  # bookworm's
_FETCH_S = 900
# The release as it is, without its updates: what stands for a device reaches no network, and one archive is one
# mirror that may be out of step.
_ARCHIVE = f"deb http://deb.debian.org/debian {SUITE} main"


def missing(tools: Mapping[str, str]) -> str | None:
    """Which of these tools (with Debian's package of each) are not here, in one line; None where all are."""
    if sys.platform != "linux":
        return f"emulating a device needs Linux; this is {platform.system()}"
    absent = [(name, package) for name, package in tools.items() if _found(name) is None]
    if not absent:
        return None
    packages = " ".join(dict.fromkeys(package for _, package in absent))
    return f"not found: {', '.join(name for name, _ in absent)} (Debian: apt-get install {packages})"


def tool(name: str) -> str:
    """Its path."""
    return _found(name) or name


def _found(name: str) -> str | None:
    # A user's PATH often lacks the folder of mkfs.
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def unpack(packages: Sequence[str], architecture: str, folder: Path) -> None:
    """Debian packages and what they depend on, unpacked into ``folder``; nothing is configured, no root rights needed.

    Raises:
        TransientError: Debian's package servers did not answer.
    """
    # Nothing is run in there, so a plain user needs neither a chroot nor a range of subordinate user ids.
    mode = "root" if os.geteuid() == 0 else "chrootless"
    fetch(
        [
            tool("mmdebstrap"),
            f"--mode={mode}",
            "--variant=extract",
            f"--arch={architecture}",
            f"--include={','.join(packages)}",
            SUITE,
            folder,
            _ARCHIVE,
        ],
        f"Debian's {architecture} packages",
    )


def fetch(command: Sequence[str | Path], what: str) -> None:
    """Run a command that downloads ``what``.

    Raises:
        TransientError: it failed, or took too long.
    """
    try:
        subprocess.run([str(part) for part in command], check=True, capture_output=True, timeout=_FETCH_S)
    except subprocess.TimeoutExpired as e:
        raise TransientError(f"emulated Arm target: fetching {what} took more than {_FETCH_S} s") from e
    except subprocess.CalledProcessError as e:
        lines = e.stderr.decode(errors="replace").strip().splitlines()
        raise TransientError(f"emulated Arm target: fetching {what} failed: {lines[-1] if lines else e}") from e


def place(staged: Path, folder: Path) -> None:
    """Move a finished system to where it is kept; whoever made the same one meanwhile has done the work."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        staged.replace(folder)
    except OSError:
        # A folder that is not empty is not replaced: another process has placed the same system, as the name has its
        # version.
        if not folder.is_dir():
            raise


def uv() -> str:
    """The uv beside this Python, else the one in PATH.

    Raises:
        UnsupportedError: neither is there.
    """
    beside = Path(sys.executable).with_name("uv")
    program = str(beside) if beside.exists() else shutil.which("uv")
    if program is None:
        raise UnsupportedError("emulated Arm target: uv is not installed (make setup installs it)")
    return program
