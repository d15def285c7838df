"""Installing what a line offers: fetch, check, try in a child process, then flip one pointer.

The verdicts are in `release.py` and `bundle.py`; what a bundle is made of comes by `bundle_fetch.py`.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edgewright_runtime.bundle.line import Line, checked_channel, checked_model, checked_platform
from edgewright_runtime.bundle.opening import read_manifest
from edgewright_runtime.bundle.release import (
    LINES_PATH,
    MAX_INDEX_BYTES,
    ReleaseDocument,
    check_release,
    in_cohort,
    index_path,
    judge_index,
    parse_lines,
    release_path,
)
from edgewright_runtime.disk import remove
from edgewright_runtime.errors import (
    EdgeRuntimeError,
    IntegrityError,
    RollbackError,
    ShortageError,
    TransportError,
)
from edgewright_runtime.shortage import is_shortage, shortage_or
from edgewright_runtime.strict_json import MAX_DOCUMENT_BYTES
from edgewright_runtime.update.bundle_fetch import BundleFetch, is_sound
from edgewright_runtime.update.golden import check_bundle_in_child
from edgewright_runtime.update.installation import Installation, Installed
from edgewright_runtime.update.registry import Registry
from edgewright_runtime.update.transport import Repository

__all__ = ["Outcome", "Updater", "followed_line"]

_PLATFORM = "edge_device"


@dataclass(frozen=True)
class Outcome:
    """What an update did. ``status``: installed, current (nothing new), not_offered (another cohort), or repaired (the
    release was here, with damaged files).

    ``patched`` are the files that were made out of older ones; ``downloaded_bytes`` is all that was fetched;
    ``patch_failures`` says why a patch was not usable and the full file was fetched instead.
    """

    status: str
    installed: Installed | None
    downloaded_bytes: int = 0
    patched: tuple[str, ...] = ()
    patch_failures: tuple[str, ...] = ()


class _Wanted(NamedTuple):
    """What `Updater.update` was asked for."""

    ignore_cohort: bool
    beside: bool
    repair: bool
    quota_bytes: int
    at_once: bool


class _NotDueError(ShortageError):
    """A release whose next trial is not due."""


def followed_line(
    installation: Installation, channel: str, model: str | None = None, platform: str | None = None
) -> Line | None:
    """What a device follows in a channel: the model and the platform that are given, else those of its current
    release; None where neither says.

    Raises:
        IntegrityError: a name that is not allowed.
    """
    checked_channel(channel)
    if platform is not None:
        checked_platform(platform)
    if model is not None:
        return Line(checked_model(model), platform or _PLATFORM, channel)
    try:
        current = installation.current()
        manifest = read_manifest(current.bundle) if current else None
    except IntegrityError:  # damaged; the repository says what there is
        return None
    if manifest is None or platform not in {None, manifest.platform}:
        return None
    return Line(manifest.name, manifest.platform, channel)


class Updater:
    """The client of one line of a release repository: a model, on a platform, in a channel.

    Without ``model`` it is that of the device's current release; before the first, the only one that the repository
    has for the ``platform`` (``edge_device`` if left out) in that channel.
    """

    def __init__(
        self,
        url: str,
        channel: str,
        root: Path,
        *,
        model: str | None = None,
        platform: str | None = None,
        redirect_hosts: Collection[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._repository = Repository(url, redirect_hosts=redirect_hosts)
        self._asked = (channel, model, platform)
        self._installation = Installation(root)

    def update(
        self,
        *,
        ignore_cohort: bool = False,
        beside: bool = False,
        repair: bool = False,
        quota_bytes: int = 0,
        at_once: bool = False,
    ) -> Outcome:
        """Install the line's current release, if it is new and for this device.

        ``beside`` keeps it among the installed models without making it the current one. Older releases are deleted
        until all bundles take at most ``quota_bytes``. ``repair`` compares a release that is here already with its
        digests, and fetches its bundle again if a file of it is damaged. A release that could not be tried for want of
        memory, disk or time is tried again after a while, or ``at_once``.

        Nothing that was installed is touched before the new release has passed every check.

        Raises:
            TransportError: the repository does not answer.
            IntegrityError: something is not what its digest or length says, or the model does not work here.
            RollbackError: the line offers an older version, or one this device has already gone back from.
            ShortageError: too little memory, disk or time for the release just now, or it waits for its next trial.
            EdgeRuntimeError: the disk does not take the files, or nothing says which of several models.
        """
        wanted = _Wanted(ignore_cohort, beside, repair, quota_bytes, at_once)
        try:
            with self._installation.exclusive():
                # First: all that follows asks what is current.
                before = self._current_or_recovered()
                release, content = self._latest_release()
                with self._postponing(release.name), self._room_given_back():
                    return self._updated(before, release, content, wanted)
        except OSError as e:
            message = f"{self._installation.root}: the update cannot be written: {e}"
            raise shortage_or(EdgeRuntimeError, e, message) from e
        except MemoryError as e:
            raise ShortageError(f"{self._installation.root}: too little memory for the update") from e

    @contextmanager
    def _postponing(self, name: str) -> Iterator[None]:
        """What a lack of memory, disk or time ends is tried again later; that says nothing of the release."""
        try:
            yield
        # A network that is down says nothing of the release, and waiting must not prolong its own wait.
        except (_NotDueError, TransportError):
            raise
        except (EdgeRuntimeError, OSError, MemoryError) as e:
            if is_shortage(e):
                with suppress(OSError):  # on a full disk: it is tried again at the next round then
                    self._installation.postpone(name, str(e) or "out of memory", self._clock())
            raise
        self._installation.not_postponed(name)

    @contextmanager
    def _room_given_back(self) -> Iterator[None]:
        """A download that filled the disk is not kept for the next attempt: the outbox needs the room now."""
        try:
            yield
        except OSError as e:
            if e.errno in {errno.ENOSPC, errno.EDQUOT}:
                for part in self._installation.staging.iterdir():
                    remove(part)
            raise

    def _updated(self, before: Installed | None, release: ReleaseDocument, content: bytes, wanted: _Wanted) -> Outcome:
        name = release.name
        here = before if before is not None and before.name == name else self._beside(name) if wanted.beside else None
        if here is not None and (not wanted.repair or is_sound(here.bundle, release)):
            return Outcome("current", here)
        # Verdicts that need no download, the lasting ones first.
        if self._installation.is_refused(name):
            reason = self._installation.refusal(name)
            raise RollbackError(f"release {name} is not taken again ({reason}); waiting for a newer one")
        if not wanted.at_once and (why := self._installation.postponed(name, self._clock())) is not None:
            raise _NotDueError(f"release {name} could not be tried ({why}); tried again later")
        if not wanted.ignore_cohort and not in_cohort(self._installation.device_id(), release):
            return Outcome("not_offered", before)
        fetch = BundleFetch(self._repository, self._installation)
        fetch.fetch(release, lambda folder: self._try(folder, release))
        place = self._installation.keep_beside if wanted.beside else self._installation.activate
        installed = place(release, content)
        # Only after the pointer: an older release goes when it is needed by nobody.
        Registry(self._installation).collect(wanted.quota_bytes)
        status = "installed" if here is None else "repaired"
        return Outcome(status, installed, fetch.downloaded_bytes, tuple(fetch.patched), tuple(fetch.patch_failures))

    def _beside(self, name: str) -> Installed | None:
        """A release that is kept beside the current one; one whose document is damaged counts as not there."""
        try:
            return self._installation.installed(name) if name in self._installation.names() else None
        except IntegrityError:
            return None

    def _current_or_recovered(self) -> Installed | None:
        """The current release; where its own document is damaged, the newest whole one, or none."""
        try:
            return self._installation.current()
        except IntegrityError:
            return self._installation.recover()

    def _latest_release(self) -> tuple[ReleaseDocument, bytes]:
        line = (followed_line(self._installation, *self._asked) or self._only_line()).id
        highest = self._installation.highest_version(line)
        index = judge_index(self._repository.read(index_path(line), MAX_INDEX_BYTES), line, highest)
        # The index is a server's word: what it announces holds only below our own bound.
        at_most = min(index.release_bytes, MAX_DOCUMENT_BYTES)
        content = self._repository.read(release_path(line, index.version), at_most)
        return check_release(content, index), content

    def _only_line(self) -> Line:
        """The only line that the repository has for this platform and channel."""
        channel, _, platform = self._asked
        lines = parse_lines(self._repository.read(LINES_PATH, MAX_DOCUMENT_BYTES))
        matches = [line for line in lines if (line.platform, line.channel) == (platform or _PLATFORM, channel)]
        if len(matches) == 1:
            return matches[0]
        if not matches:
            there = "; ".join(str(line) for line in lines[:5]) or "nothing"
            raise TransportError(
                f"{self._repository.url}: nothing for {platform or _PLATFORM} on channel '{channel}'; there is: {there}"
            )
        names = ", ".join(sorted(line.model for line in matches)[:10])
        raise EdgeRuntimeError(
            f"{self._repository.url}: {len(matches)} models for {matches[0].platform} on '{channel}': {names}; "
            "say which this device follows (--model)"
        )

    def _try(self, folder: Path, release: ReleaseDocument) -> None:
        """Load and run the bundle in a child process; one that does not work here is not tried again."""
        try:
            check_bundle_in_child(folder)
        except IntegrityError as e:
            self._installation.refuse(release.name, str(e))
            raise
