"""The memory of this process, and bounds on what it may take.

Linux, by /proc; macOS, by ps(1) and getrusage(2), without bounds; elsewhere nothing is known and nothing bounded.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["limit_memory", "peak_memory_mb", "reset_peak", "resident_mb"]


def _status_mb(key: str) -> float | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    for line in status.read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    return None


def resident_mb() -> float | None:
    """Resident memory now, MB; None where the system does not say."""
    return _ps_mb() if sys.platform == "darwin" else _status_mb("VmRSS")


def peak_memory_mb() -> float | None:
    """Largest resident memory since the start, or since `reset_peak`, MB; None where the system does not say."""
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)  # bytes there, kilobytes on Linux
    # VmHWM, not ru_maxrss: that one inherits the parent's memory from before the exec.
    return _status_mb("VmHWM")


def _ps_mb() -> float | None:
    """POSIX ps(1): ``rss`` in units of 1024 bytes, on macOS as on Linux."""
    command = ["ps", "-o", "rss=", "-p", str(os.getpid())]
    try:
        stdout = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
        return int(stdout) / 1024
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def reset_peak() -> None:
    """Let the high-water mark start anew (Linux proc(5), clear_refs); elsewhere it keeps the imports' peak."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        # The increase is then an upper bound: it may hold a peak from importing the runtime.
        return


def limit_memory(added_mb: float) -> None:
    """Let this process allocate no more than this beyond what it holds now (RLIMIT_AS); Linux only.

    macOS knows the name and enforces nothing by it; without /proc nobody knows what is held already.
    """
    if sys.platform != "linux":
        return
    import resource

    held = _status_mb("VmSize") or 0.0
    limit = int((held + added_mb) * (1 << 20))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    # A lower bound that stands already (`ulimit -v`) goes on: only root may raise it.
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
