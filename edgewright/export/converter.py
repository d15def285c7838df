"""The child processes that convert: a fresh interpreter whose allocator gives memory back as soon as it is free.

glibc raises the size from which memory is mapped by itself with every large block that is freed, up to 32 MB; what a
converter frees below it stays in the heap, in pieces, and the peak grows by it.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, overload

from edgewright.child import ChildRun, run_in_child

R = TypeVar("R")

__all__ = ["convert_in_child"]

_ADVICE = "other platforms convert by tools of their own: see whether another --platform takes it"
# mallopt(3); a fixed threshold is not raised any more.
_LEAN = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


@overload
def convert_in_child(
    job: "partial[None]", *, what: str, environment: Mapping[str, str] | None = ...
) -> ChildRun[None]: ...


@overload
def convert_in_child(
    job: "partial[R]", *, returns: type[R], what: str, environment: Mapping[str, str] | None = ...
) -> ChildRun[R]: ...


def convert_in_child(
    job: "partial[Any]", *, returns: Any = None, what: str, environment: Mapping[str, str] | None = None
) -> ChildRun[Any]:
    """As `edgewright.child.run_in_child`, and lean; what is made stands beside the job's ``path``."""
    lean = {**_LEAN, **(environment or {})}
    # A confined child writes nowhere else (`edgewright.sandbox`).
    beside = [Path(job.keywords["path"]).parent] if "path" in job.keywords else []
    return run_in_child(job, returns=returns, what=what, environment=lean, advice=_ADVICE, writes=beside)
