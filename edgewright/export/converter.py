"""The child processes that convert: a fresh interpreter whose allocator gives memory back as soon as it is free.

glibc raises the size from which memory is mapped by itself with every large block that is freed, up to 32 MB; what a
converter frees below it stays in the heap, in pieces, and the peak grows by it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgewright.child import ChildRun, run_in_child

__all__ = ["convert_in_child"]

_ADVICE = "other platforms convert by tools of their own: see whether another --platform takes it"
# mallopt(3); a fixed threshold is not raised any more.
_LEAN = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def convert_in_child(
    target: str, arguments: Mapping[str, Any], *, what: str, environment: Mapping[str, str] | None = None
) -> ChildRun:
    """As `edgewright.child.run_in_child`, and lean; what is made stands beside ``path``."""
    lean = {**_LEAN, **(environment or {})}
    beside = [Path(arguments["path"]).parent] if "path" in arguments else []
    return run_in_child(target, arguments, what=what, environment=lean, advice=_ADVICE, writes=beside)
