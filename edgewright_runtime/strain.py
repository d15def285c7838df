"""What the device does about heat and a low battery: less, step by step, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgewright_runtime.health.watch import OF_MACHINE, Issue
from edgewright_runtime.update.registry import Constraints, Model

__all__ = ["Level", "levels_of", "step_for"]

# A p95 well below the present model's: what a cheaper model must have to be worth the change.
_CHEAPER_SHARE = 0.8
_LONGER_INTERVAL_S = 1.0


@dataclass(frozen=True)
class Level:
    """How the device runs its model: with which limits it is chosen, in how many threads, how often.

    ``threads`` None is what the model's manifest says; ``interval_s`` is the least time between two predictions of the
    agent.
    """

    name: str
    max_latency_ms: float | None = None
    max_memory_mb: float | None = None
    threads: int | None = None
    interval_s: float = 0.0


def levels_of(steps: Sequence[str], current: Model, models: Sequence[Model]) -> tuple[Level, ...]:
    """Normal operation, and a level more for each step, which keeps the steps before it.

    A step that would change nothing (one thread only, no faster one among the ``models`` that are here) makes no level.
    """
    threads = current.manifest.runtime.threads
    # A model that was never measured gives the limit 0, which none keeps: there is no such level then.
    faster_ms = _CHEAPER_SHARE * (current.latency_p95_ms or 0.0)
    levels = [Level("normal", threads=threads)]
    for step in steps:
        last = levels[-1]
        if step == "fewer_threads" and threads > 1:
            levels.append(replace(last, name=step, threads=threads // 2))
        elif step == "cheaper_model" and any(model.fits(Constraints(max_latency_ms=faster_ms)) for model in models):
            levels.append(replace(last, name=step, max_latency_ms=faster_ms))
        elif step == "longer_interval":
            levels.append(replace(last, name=step, interval_s=_LONGER_INTERVAL_S))
    return tuple(levels)


def step_for(issues: Sequence[Issue], levels: Sequence[Level], now: int) -> int:
    """The level to run at: one step down for heat or a low battery, one back up when neither stands.

    ``levels`` begin with the normal one; ``now`` is the index of the present one.
    """
    strained = any(issue.kind in OF_MACHINE for issue in issues)
    return min(now + 1, len(levels) - 1) if strained else max(now - 1, 0)
