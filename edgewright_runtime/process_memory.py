"""The memory of this process, and bounds on what it may take. Linux; elsewhere nothing is known and nothing bounded."""

from __future__ import annotations

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
    """Resident memory now, MB; None where /proc is not there."""
    return _status_mb("VmRSS")


def peak_memory_mb() -> float | None:
    """Largest resident memory since the start, or since `reset_peak`, MB; None where /proc is not there."""
    # VmHWM, not ru_maxrss: that one inherits the parent's memory from before the exec.
    return _status_mb("VmHWM")


def reset_peak() -> None:
    """Let the high-water mark start anew (Linux proc(5), clear_refs); elsewhere it keeps the imports' peak."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        # The increase is then an upper bound: it may hold a peak from importing the runtime.
        return


def limit_memory(added_mb: float) -> None:
    """Let this process allocate no more than this beyond what it holds now (RLIMIT_AS)."""
    import resource

    held = _status_mb("VmSize") or 0.0
    limit = int((held + added_mb) * (1 << 20))
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
