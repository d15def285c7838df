"""The models on this device: which there are, which fits the moment, and which may be deleted.

The folders of `Installation` are the state, so it survives a power loss as they do: nothing else is kept.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgewright_runtime.bundle.manifest import Manifest
from edgewright_runtime.bundle.opening import read_manifest
from edgewright_runtime.disk import discard, make_own_folder, open_lock, remove
from edgewright_runtime.errors import EdgeRuntimeError, IntegrityError
from edgewright_runtime.shortage import is_shortage
from edgewright_runtime.update.installation import Installation

__all__ = ["Constraints", "Model", "Registry"]


@dataclass(frozen=True)
class Constraints:
    """What a model may cost now; None sets no limit. ``runtimes`` and ``accelerators`` are those that are here."""

    max_memory_mb: float | None = None
    max_latency_ms: float | None = None
    max_size_bytes: int | None = None
    runtimes: frozenset[str] | None = None
    accelerators: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Model:
    """An installed bundle with the figures that validation measured; None where nothing was measured."""

    release: str
    folder: Path
    manifest: Manifest
    size_bytes: int

    @property
    def accuracy(self) -> float | None:
        """Share of right answers, or R²."""
        return self.manifest.measurements.accuracy

    @property
    def latency_p95_ms(self) -> float | None:
        """p95 on the validation target."""
        return self.manifest.measurements.latency_p95_ms

    @property
    def memory_mb(self) -> float | None:
        """What loading and running it adds."""
        return self.manifest.measurements.added_memory_mb

    def fits(self, limits: Constraints) -> bool:
        """Whether every limit is kept; a figure that was never measured keeps none."""
        need = self.manifest.runtime
        return (
            _within(self.memory_mb, limits.max_memory_mb)
            and _within(self.latency_p95_ms, limits.max_latency_ms)
            and _within(self.size_bytes, limits.max_size_bytes)
            and (limits.runtimes is None or need.name in limits.runtimes)
            and (need.accelerator is None or need.accelerator in limits.accelerators)
        )


class Registry:
    """What is installed under one root."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._leases = installation.root / "leases"
        make_own_folder(self._leases)

    def models(self) -> list[Model]:
        """Every release whose bundle is here and readable, oldest first; a damaged one is left out."""
        usable_models = []
        for name in self._installation.names():
            try:
                folder = self._installation.installed(name).bundle
                manifest = read_manifest(folder)
            except IntegrityError:
                continue
            usable_models.append(Model(name, folder, manifest, sum(entry.bytes for entry in manifest.files)))
        return usable_models

    def candidates(self) -> list[Model]:
        """The models that may be chosen: not those that this device went back from, unless one was made current."""
        # One that was made current by hand, though once given up, is what the device was told to run.
        current = self._installation.current_name()
        return [m for m in self.models() if m.release == current or not self._installation.is_refused(m.release)]

    def best_model(self, limits: Constraints) -> Model:
        """The most accurate model within the limits; of equally accurate ones the faster.

        Raises:
            EdgeRuntimeError: none is within them; the message says what there is.
        """
        models = self.candidates()
        fitting = [model for model in models if model.fits(limits)]
        if not fitting:
            there = ", ".join(_described(model) for model in models) or "nothing"
            raise EdgeRuntimeError(f"no installed model is within {limits}; installed: {there}")
        return min(fitting, key=_rank)

    @contextmanager
    def in_use(self, folder: Path) -> Iterator[Path]:
        """Keep a bundle from being deleted while this block, or this process, lives."""
        try:
            lease = open_lock(self._leases / folder.name)
        except OSError as e:
            if is_shortage(e):
                raise
            yield folder  # nothing is deleted from a disk that can only be read, nor what nobody can hold
            return
        try:
            # Shared among readers; the system gives it back where the process dies.
            fcntl.flock(lease, fcntl.LOCK_SH)
            yield folder
        finally:
            os.close(lease)

    def collect(self, quota_bytes: int = 0) -> list[str]:
        """Delete the oldest releases until their bundles take at most ``quota_bytes``; returns their names.

        The current release, the one it would roll back to and bundles in use stay, whatever they take.
        """
        current = self._installation.current()
        if current is None:
            return []
        pinned = {current.name, current.previous}
        removed = []
        for name in self._installation.names_by_age():
            if self._used_bytes() <= quota_bytes:
                break
            if name not in pinned and self._remove(name):
                removed.append(name)
        self._remove_orphans()
        return removed

    def _used_bytes(self) -> int:
        folders = self._installation.root / "bundles"
        return sum(file.stat().st_size for file in folders.rglob("*") if file.is_file())

    def _remove(self, name: str) -> bool:
        """Delete a release, and its bundle if no other release has it; False where the bundle is in use."""
        root = self._installation.root
        digest = self._digest(name)
        # A rollback is a release of its own with the content of an older one.
        shared = any(self._digest(other) == digest for other in self._installation.names() if other != name)
        if shared or digest is None:
            discard(root / "releases" / name)
            return True
        with self._unused(digest) as free:
            if not free:
                return False
            # The release goes first: one without its bundle would look damaged, a bundle without release is an orphan.
            discard(root / "releases" / name)
            discard(root / "bundles" / digest)
            return True

    def _remove_orphans(self) -> None:
        """Bundles of no release, and releases half written: what a crash can leave."""
        root = self._installation.root
        known = {self._digest(name) for name in self._installation.names()}
        for bundle in (root / "bundles").iterdir():
            if bundle.name not in known:
                with self._unused(bundle.name) as free:
                    if free:
                        discard(bundle)
        for half in (root / "releases").glob(".*"):
            remove(half)

    def _digest(self, name: str) -> str | None:
        """The bundle of a release; None where the release is damaged and names none."""
        try:
            return (self._installation.root / "releases" / name / "bundle").readlink().name
        except OSError:
            return None

    @contextmanager
    def _unused(self, digest: str) -> Iterator[bool]:
        # The file stays: a lease taken on an unlinked one would protect nothing.
        try:
            lease = open_lock(self._leases / digest)
        except OSError as e:
            if is_shortage(e):
                raise
            yield False
            return
        try:
            yield _is_locked(lease)
        finally:
            os.close(lease)


def _is_locked(lease: int) -> bool:
    try:
        # Exclusive and at once: granted only where no reader holds a share.
        fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _within(value: float | None, limit: float | None) -> bool:
    return limit is None or (value is not None and value <= limit)


def _rank(model: Model) -> tuple[float, float]:
    accuracy = model.accuracy if model.accuracy is not None else float("-inf")
    latency = model.latency_p95_ms if model.latency_p95_ms is not None else float("inf")
    return -accuracy, latency


def _described(model: Model) -> str:
    return (
        f"{model.release} ({model.size_bytes} bytes, {model.memory_mb} MB, p95 {model.latency_p95_ms} ms, "
        f"{model.manifest.runtime.name})"
    )
