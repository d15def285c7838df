"""How a device runs, and what one round of its upkeep did; see `device`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgewright_runtime.bundle.monitoring import Monitoring
from edgewright_runtime.health.watch import Issue
from edgewright_runtime.predict.hybrid import Answer, Policy
from edgewright_runtime.predict.offline import Privacy
from edgewright_runtime.strain import Level

if TYPE_CHECKING:
    from edgewright_runtime.predict.cloud import CloudClient

__all__ = ["Settings", "Tick"]


@dataclass(frozen=True)
class Settings:
    """How a device runs. Without ``repository`` it takes no updates, without ``cloud`` it sends nothing.

    ``model``, ``platform`` and ``channel`` say what it follows, ``redirect_hosts`` where else its files may lie; see
    `Updater`. ``monitoring`` is the release's plan, which has its limits from validation and the device's profile, if
    left out; ``levels`` are of its steps. ``default`` answers where the model fails and has never answered. Where the
    cloud says what is current, the repository is asked when that is new, and once in ``poll_s``; else at every tick.
    Without ``answers`` this process does the upkeep only, and another answers: its starts count for no trial.
    """

    root: Path
    repository: str | None = None
    channel: str = "stable"
    cloud: CloudClient | None = None
    policy: Policy = field(default_factory=Policy)
    privacy: Privacy = field(default_factory=Privacy)
    levels: tuple[Level, ...] | None = None
    monitoring: Monitoring | None = None
    default: Answer | None = None
    cache_capacity: int = 1000
    outbox_bytes: int = 64 << 20
    quota_bytes: int = 0
    trial_windows: int = 2
    most_trial_starts: int = 3
    poll_s: float = 3600.0
    wait_for_log: bool = True
    answers: bool = True
    model: str | None = None
    platform: str | None = None
    redirect_hosts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tick:
    """What one round of upkeep did; ``errors`` are the things that did not work and will be tried again."""

    release: str
    level: str
    issues: tuple[Issue, ...] = ()
    sent: int = 0
    installed: str | None = None
    downloaded_bytes: int = 0
    patched: tuple[str, ...] = ()
    rolled_back: str | None = None
    errors: tuple[str, ...] = ()
