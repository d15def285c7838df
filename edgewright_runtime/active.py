"""The model that answers on a device now, with its cache, its monitor and its watch; see `device`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from edgewright_runtime.hybrid import Hybrid
from edgewright_runtime.monitor import Monitor, resident_memory_mb
from edgewright_runtime.offline import OfflineModel
from edgewright_runtime.predictor import Predictor
from edgewright_runtime.registry import Model
from edgewright_runtime.watch import Level, Limits, Watch

if TYPE_CHECKING:
    from edgewright_runtime.device import Device

__all__ = ["Active"]


class Active:
    """The model that answers now, with all that belongs to it."""

    def __init__(self, device: Device, model: Model, level: Level) -> None:
        settings, self.model = device.settings, model
        with ExitStack() as lease:  # given back where any of this fails
            folder = lease.enter_context(device.registry.in_use(model.folder))
            before_mb = resident_memory_mb()
            predictor = Predictor(folder, level.threads)
            release = device.installation.installed(model.release).release
            policy = settings.policy
            if release.monitoring.min_confidence is not None:
                policy = replace(policy, threshold=release.monitoring.min_confidence)
            self.answers = OfflineModel(
                Hybrid(predictor, model.release, cloud=settings.cloud, policy=policy, default=settings.default),
                predictor.manifest,
                model.release,
                device.outbox,
                privacy=settings.privacy,
                key_file=settings.root / "hash_key",
                cache_capacity=settings.cache_capacity,
                wait_for_log=settings.wait_for_log,
                clock=device.clock,
            )
            self.monitor = Monitor(
                device.windows.append,
                release.monitoring,
                device=device.installation.device_id(),
                release=model.release,
                bundle=release.bundle_digest,
                memory_before_mb=before_mb,
                clock=device.clock,
                steady=device.steady,
            )
            limits = settings.limits or Limits.of(release.monitoring)
            self.watch = Watch(limits, release.monitoring, predictor.manifest.calibration)
            self.lease = lease.pop_all()
