"""What the processor here does with 8-bit numbers, and whether a file was made for such a one."""

from __future__ import annotations

import platform
from pathlib import Path

from edgewright_runtime.bundle.manifest import Kernels, Processor

__all__ = ["INT16_LIMIT", "exact_kernels", "misfit", "saturates"]

INT16_LIMIT = 32_767
"""What the sum of two 8-bit products may be on x86 without VNNI: ``vpmaddubsw`` saturates beyond."""

_X86 = {"x86_64", "amd64", "i386", "i686"}
_VNNI = {"avx_vnni", "avx512_vnni"}
_CPUINFO = Path("/proc/cpuinfo")


def saturates() -> bool:
    """Whether pairs of 8-bit products are summed in 16 bits here: x86 without VNNI, or where no system tells of it."""
    # Without /proc/cpuinfo (macOS, Windows) the flags are empty, and the answer is the careful one.
    return platform.machine().lower() in _X86 and not _VNNI & _flags()


def _flags() -> set[str]:
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:  # no Linux: nothing is known
        return set()
    return set(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))


def misfit(made_for: Processor | None) -> str:
    """Why answers may differ here from those of the processor that a file was made for; empty where they do not."""
    if made_for is None or made_for.largest_pair_sum <= INT16_LIMIT or not saturates():
        return ""
    kind = f"{made_for.instruction_set} with 8-bit dot products" if made_for.dot_products else made_for.instruction_set
    return (
        f"the file was made for {kind}: its 8-bit sums reach {made_for.largest_pair_sum:,}, and this processor, x86 "
        f"without VNNI, saturates at {INT16_LIMIT:,}"
    )


def exact_kernels(made_for: Processor | None) -> Kernels:
    """Kernels that give here what the file gives on the processor that it was made for, be they slow."""
    return Kernels(int8=False) if misfit(made_for) else Kernels()
