"""A bound on memory by Linux's control groups, version 2, where this process may make one.

Source: Linux, Documentation/admin-guide/cgroup-v2.rst. A group of its own counts what is really held, files' pages and
kernel memory too, where RLIMIT_AS counts addresses that may never be touched.
"""

import errno
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

__all__ = ["delegated", "memory_bound", "was_out_of_memory"]

_REMOVAL_WAITS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_MOUNTS, _GROUPS = Path("/proc/self/mountinfo"), Path("/proc/self/cgroup")


@cache
def delegated() -> Path | None:
    """The group below which this process may bound memory; None where there is none."""
    mount = _mounted()
    own = None if mount is None else _own_group()
    if mount is None or own is None:
        return None
    group = mount / own.lstrip("/")
    # Upwards: in version 2 a group that holds processes, as this one's own does, cannot give a controller to groups
    # below.
    for folder in (group, *group.parents):
        if not folder.is_relative_to(mount):
            return None
        if _may_bound_below(folder, enable=folder == group):
            return folder
    return None


def _mounted() -> Path | None:
    """Where the hierarchy is mounted: field 5 of mountinfo, the type after the dash (proc(5))."""
    try:
        lines = _MOUNTS.read_text().splitlines()
    except OSError:  # not Linux
        return None
    for line in lines:
        place, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            return Path(place.split()[4])
    return None


def _own_group() -> str | None:
    """The line of version 2 begins with 0:: (cgroups(7))."""
    for line in _GROUPS.read_text().splitlines():
        if line.startswith("0::"):
            return line.removeprefix("0::")
    return None


def _may_bound_below(folder: Path, *, enable: bool) -> bool:
    """Tried with a group that is removed at once: permissions alone do not tell."""
    control, probe = folder / "cgroup.subtree_control", folder / _name()
    try:
        if "memory" not in control.read_text().split():
            if not enable or "memory" not in (folder / "cgroup.controllers").read_text().split():
                return False
            control.write_text("+memory")  # refused where the group itself holds processes, unless it is the root
        probe.mkdir()
    except OSError:
        return False
    try:
        return os.access(probe / "memory.max", os.W_OK) and _may_enter(probe)
    finally:
        _remove(probe)


def _may_enter(group: Path) -> bool:
    """A process that enters and ends at once: the right to it hangs on the common ancestor, and on namespaces."""
    enter = ["sh", "-c", 'echo 0 2>/dev/null > "$1"', "sh", str(group / "cgroup.procs")]
    return subprocess.run(enter, stderr=subprocess.DEVNULL, check=False).returncode == 0  # 0 is the shell itself


@contextmanager
def memory_bound(below: Path, limit_mb: float) -> Iterator[Path]:
    """A group whose processes hold no more than ``limit_mb`` together, swap included; removed at the end."""
    group = below / _name()
    group.mkdir()
    try:
        (group / "memory.max").write_text(str(int(limit_mb * (1 << 20))))
        # Without swap, where what does not fit into memory would run all the same, slowly.
        if (swap := group / "memory.swap.max").exists():
            swap.write_text("0")
        yield group
    finally:
        _remove(group)


def _remove(group: Path) -> None:
    """Once it is empty: a process leaves its group a moment after it was seen to end."""
    for wait_s in _REMOVAL_WAITS_S:
        try:
            group.rmdir()
        except OSError as e:
            if e.errno != errno.EBUSY:
                raise
            time.sleep(wait_s)
        else:
            return
    group.rmdir()


def was_out_of_memory(group: Path) -> bool:
    """Whether the kernel ended one of its processes for want of memory."""
    counts = dict(line.split() for line in (group / "memory.events").read_text().splitlines())
    return int(counts.get("oom_kill", 0)) > 0


def _name() -> str:
    return f"edgewright-{uuid.uuid4().hex[:12]}"
