"""The model that answers on a device now, with its cache, its monitor and its watch; see `device`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

from edgewright_runtime.health.monitor import Monitor, resident_memory_mb
from edgewright_runtime.health.outbox import Outbox
from edgewright_runtime.health.telemetry import TelemetryRecord
from edgewright_runtime.health.watch import Watch
from edgewright_runtime.predict.hybrid import Hybrid
from edgewright_runtime.predict.offline import OfflineModel
from edgewright_runtime.predict.predictor import Predictor
from edgewright_runtime.settings import Settings
from edgewright_runtime.strain import Level
from edgewright_runtime.update.installation import Installation
from edgewright_runtime.update.registry import Model, Registry

__all__ = ["Active", "Around"]


@dataclass(frozen=True)
class Around:
    """What a device's models share: its settings, what is installed, its outbox, and where finished windows go."""

    settings: Settings
    registry: Registry
    installation: Installation
    outbox: Outbox
    take: Callable[[TelemetryRecord], None]
    clock: Callable[[], float]
    steady: Callable[[], float]


class Active:
    """The model that answers now, with all that belongs to it."""

    def __init__(self, around: Around, model: Model, level: Level) -> None:
        settings, self.model = around.settings, model
        with ExitStack() as lease:  # given back where any of this fails
            # Leased before it is opened: from here on an update leaves the bundle on the disk.
            folder = lease.enter_context(around.registry.in_use(model.folder))
            before_mb = resident_memory_mb()
            predictor = Predictor(folder, level.threads)
            release = around.installation.installed(model.release).release
            plan, policy = settings.monitoring or release.monitoring, settings.policy
            # The release's own threshold goes before the one of this device's settings.
            if plan.min_confidence is not None:
                policy = replace(policy, threshold=plan.min_confidence)
            self.answers = OfflineModel(
                Hybrid(predictor, model.release, cloud=settings.cloud, policy=policy, default=settings.default),
                predictor.manifest,
                model.release,
                around.outbox,
                privacy=settings.privacy,
                # Of the device, not of a release: the same user keeps the same hash over updates.
                key_file=settings.root / "hash_key",
                cache_capacity=settings.cache_capacity,
                wait_for_log=settings.wait_for_log,
                clock=around.clock,
            )
            self.monitor = Monitor(
                around.take,
                plan,
                device=around.installation.device_id(),
                release=model.release,
                bundle=release.bundle_digest,
                memory_before_mb=before_mb,
                clock=around.clock,
                steady=around.steady,
            )
            self.watch = Watch(plan, predictor.manifest.calibration)
            self.lease = lease.pop_all()
