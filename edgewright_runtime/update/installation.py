"""What is installed on this device, and how one version takes another's place in a single step.

``ROOT/current``                         symbolic link to the active release: the pointer, flipped atomically
``ROOT/releases/LINE.VERSION/``          ``release.json``, ``previous`` (a name) and ``bundle`` (a link)
``ROOT/bundles/DIGEST/``                 a bundle's files, complete and checked before they get this name
``ROOT/staging/``                        downloads under way
``ROOT/highest/LINE``, ``ROOT/refused/NAME``, ``ROOT/postponed/NAME``, ``ROOT/trial``, ``ROOT/device_id``

``ROOT/current/bundle`` is the path an application opens.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewright_runtime.bundle.opening import open_bundle
from edgewright_runtime.bundle.release import ReleaseDocument, parse_release
from edgewright_runtime.disk import (
    discard,
    kept_once,
    lock_file,
    make_folder,
    make_own_folder,
    read_plain,
    remove,
    set_aside,
    sync_folder,
    write_durably,
)
from edgewright_runtime.errors import EdgeRuntimeError, IntegrityError, RollbackError
from edgewright_runtime.shortage import is_shortage, reads_as_shortage_of_disk, shortage_or
from edgewright_runtime.strict_json import MAX_DOCUMENT_BYTES

__all__ = ["Installation", "Installed"]

_FIRST_WAIT_S = 60.0
_LONGEST_WAIT_S = 6 * 3600.0
_ROOM_BYTES = 64 << 10
_COARSEST_TIME_NS = 2_000_000_000  # between two times that every file system tells apart (FAT)
_MAX_NOTE_BYTES = 64 << 10
_COUNT = re.compile(r"[0-9]{1,9}")
_RELEASE_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.[0-9]+")


@dataclass(frozen=True)
class Installed:
    """One release on this device."""

    name: str
    release: ReleaseDocument
    bundle: Path
    previous: str | None


class Installation:
    """The folder on the device that holds its models."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.staging = root / "staging"
        make_folder(root)
        for folder in (self.staging, root / "bundles", root / "releases", root / "highest", root / "refused"):
            make_own_folder(folder)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """One change at a time: a second process is refused, not queued."""
        with lock_file(self.root / ".lock") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                raise EdgeRuntimeError(f"{self.root}: another process is changing it; try again later") from e
            yield

    def device_id(self) -> str:
        """A random name that this device keeps; it decides which cohorts the device is in."""
        return kept_once(self.root / "device_id", uuid.uuid4().hex.encode).decode(errors="replace").strip()

    def current(self) -> Installed | None:
        """The active release; None before the first installation."""
        name = self.current_name()
        return None if name is None else self.installed(name)

    def current_name(self) -> str | None:
        """The name of the active release, whatever state it is in."""
        try:
            return (self.root / "current").readlink().name
        except FileNotFoundError:
            return None
        except OSError as e:
            if e.errno != errno.EINVAL:
                raise
            return "current"  # no link, and no release's name: damaged

    def installed(self, name: str) -> Installed:
        """A release by its name.

        Raises:
            IntegrityError: it is not there, or its document is damaged.
            ShortageError: no file can be opened just now.
        """
        folder = self.root / "releases" / name
        try:
            release = parse_release(read_plain(folder / "release.json", MAX_DOCUMENT_BYTES))
            noted = folder / "previous"
            previous = read_plain(noted, _MAX_NOTE_BYTES).decode().strip() if noted.exists() else ""
            # The link is relative to the release's folder, so the root can be moved.
            bundle = folder / (folder / "bundle").readlink()
        except (OSError, UnicodeDecodeError) as e:
            raise shortage_or(IntegrityError, e, f"{folder}: the installed release cannot be read: {e}") from e
        return Installed(name, release, Path(os.path.normpath(bundle)), previous or None)

    def names(self) -> list[str]:
        """All releases on this device, oldest first within a line."""
        folders = [p.name for p in (self.root / "releases").iterdir() if _RELEASE_NAME.fullmatch(p.name)]
        return sorted(folders, key=lambda name: (name.rpartition(".")[0], int(name.rpartition(".")[2])))

    def highest_version(self, line: str) -> int:
        """The highest version of a line that was ever installed here; 0 before the first."""
        path = self.root / "highest" / line
        # What is installed counts, too: a kill may have come between the pointer's flip and this file.
        versions = [int(name.rpartition(".")[2]) for name in self.names() if name.rpartition(".")[0] == line]
        with suppress(ValueError):  # a damaged file must not end all updates
            versions.append(int(_text(path)))
        return max(versions, default=0)

    def bundle_folder(self, manifest_sha256: str) -> Path:
        """Where a bundle lies once it is complete."""
        return self.root / "bundles" / manifest_sha256

    def is_refused(self, name: str) -> bool:
        """Whether this device went back from that release, or found that it does not work."""
        return (self.root / "refused" / name).exists()

    def refusal(self, name: str) -> str:
        """Why a release is not taken again."""
        return _text(self.root / "refused" / name)

    def refusals(self) -> dict[str, str]:
        """Every release that is not taken again, and why."""
        paths = sorted(p for p in (self.root / "refused").iterdir() if not p.name.startswith("."))
        return {path.name: _text(path) for path in paths}

    def refuse(self, name: str, reason: str) -> None:
        """Never take that release again."""
        write_durably(self.root / "refused" / name, reason.encode())

    def postpone(self, name: str, reason: str, now_s: float) -> None:
        """Try that release again later: after a minute, then twice as long each time, at most six hours."""
        attempts = self._postponement(name).get("attempts", 0) + 1
        wait_s = _wait_s(attempts)
        # Kept so that room which appears later ends the wait, see `postponed`.
        free = shutil.disk_usage(self.root).free
        note = {"attempts": attempts, "until_s": now_s + wait_s, "free_bytes": free, "reason": reason[:500]}
        make_own_folder(self.root / "postponed")
        write_durably(self.root / "postponed" / name, json.dumps(note).encode())

    def postponed(self, name: str, now_s: float) -> str | None:
        """Why that release is not tried now; None where it may be: never postponed, long ago, or there is room now."""
        note = self._postponement(name)
        if not note:
            return None
        wait_s = note["until_s"] - now_s
        if not 0 < wait_s <= _wait_s(note["attempts"]):  # a clock that jumped back must not make it wait longer
            return None
        more_room = shutil.disk_usage(self.root).free > note["free_bytes"] + _ROOM_BYTES
        return None if more_room and reads_as_shortage_of_disk(note["reason"]) else str(note["reason"])

    def not_postponed(self, name: str) -> None:
        """That release was tried, with success or not."""
        with suppress(OSError):  # what it cannot delete keeps it from nothing
            remove(self.root / "postponed" / name)

    def _postponement(self, name: str) -> dict[str, Any]:
        try:
            note = json.loads(read_plain(self.root / "postponed" / name, _MAX_NOTE_BYTES))
            return {
                "attempts": int(note["attempts"]),
                "until_s": float(note["until_s"]),
                "free_bytes": int(note["free_bytes"]),
                "reason": str(note["reason"]),
            }
        except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
            return {}  # none, or damaged: tried at once

    def activate(self, release: ReleaseDocument, content: bytes) -> Installed:
        """Make a release whose bundle is complete the current one; the one before it is kept.

        Whatever instant the power fails at, ``current`` is the old release or the new one.
        """
        name = release.name
        before = self.current()
        folder = self.root / "releases" / name
        if before is None or before.name != name:
            self._place_release(folder, release, content, before.name if before else "")
            # Without a release before it there is nothing to go back to, so a trial would be idle.
            if before is not None:
                self.begin_trial(name)
            self._point_to(name)
        elif before.bundle != Path(os.path.normpath(self.bundle_folder(release.manifest.sha256))):
            self._place_release(folder, release, content, before.previous or "")  # its link was damaged
        self._raise_highest(release)
        return self.installed(name)

    def rollback(self, to: str | None = None, *, take_again: bool = False) -> Installed:
        """Return to the release before the current one, or to the kept release ``to``, without network.

        The current one is not taken again, unless ``take_again``: where its files were damaged, not its model bad.

        Raises:
            RollbackError: there is none, it is not kept here, or it is damaged.
        """
        now = self.current()
        name = to or (now.previous if now else None)
        if now is None or name is None:
            raise RollbackError(f"{self.root}: no earlier release is kept here")
        if name == now.name or name not in self.names():
            others = ", ".join(other for other in self.names() if other != now.name) or "none"
            raise RollbackError(f"release '{name}' is not another release that is kept here; there are: {others}")
        try:
            target = self.installed(name)
            # Whole files, before the pointer moves: this is done without network, and nothing could be fetched again.
            open_bundle(target.bundle)
        except IntegrityError as e:
            raise RollbackError(f"the earlier release {name} cannot be used: {e}") from e
        # Refused before the pointer moves: after a power cut in between, the next poll would take it again.
        if not take_again:
            self.refuse(now.name, "rolled back on this device")
        self._point_to(target.name)
        return target

    def recover(self) -> Installed | None:
        """Where the current release's own document is damaged, make the newest kept one that is whole the current one.

        One that this device went back from is not taken. None where there is none: nothing is installed then, and can
        be fetched again.
        """
        for name in reversed(self.names_by_age()):
            if self.is_refused(name):
                continue
            try:
                release = self.installed(name)
                open_bundle(release.bundle)
            except IntegrityError:
                continue
            self._point_to(name)
            return release
        remove(self.root / "current")
        sync_folder(self.root)
        return None

    def begin_trial(self, name: str) -> None:
        """Put a release on trial: until `end_trial` its starts are counted. Written before it becomes current."""
        write_durably(self.root / "trial", f"{name} 0".encode())

    def trial_starts(self) -> int | None:
        """How often the current release was started on trial; None where it is not on trial."""
        name, _, starts = _text(self.root / "trial").partition(" ")
        current = self.current()
        return int(starts) if current is not None and name == current.name and _COUNT.fullmatch(starts) else None

    def count_trial_start(self, more: int = 1) -> int | None:
        """Count one more start of a release on trial; one less where it turned out to tell nothing."""
        starts, current = self.trial_starts(), self.current()
        if starts is None or current is None:
            return None
        counted = max(starts + more, 0)
        write_durably(self.root / "trial", f"{current.name} {counted}".encode())
        return counted

    def end_trial(self) -> None:
        """The current release has proved itself."""
        remove(self.root / "trial")
        sync_folder(self.root)

    def names_by_age(self) -> list[str]:
        """All releases on this device, the one that was installed first in front."""
        return sorted(self.names(), key=lambda name: (self.root / "releases" / name).lstat().st_mtime_ns)

    def keep_beside(self, release: ReleaseDocument, content: bytes) -> Installed:
        """Keep a release whose bundle is complete without making it the current one."""
        name = release.name
        try:
            self.installed(name)
        except IntegrityError:  # not there, or damaged
            self._place_release(self.root / "releases" / name, release, content, "")
        self._raise_highest(release)
        return self.installed(name)

    def _raise_highest(self, release: ReleaseDocument) -> None:
        highest = max(release.version, self.highest_version(release.line))
        write_durably(self.root / "highest" / release.line, str(highest).encode())

    def _place_release(self, folder: Path, release: ReleaseDocument, content: bytes, previous: str) -> None:
        # A hidden name, which `names` does not list, until everything in it is written.
        staged = folder.with_name(f".{folder.name}")
        remove(staged)
        staged.mkdir()
        write_durably(staged / "release.json", content)
        write_durably(staged / "previous", previous.encode())
        (staged / "bundle").symlink_to(Path("..") / ".." / "bundles" / release.manifest.sha256)
        self._make_youngest(staged)
        sync_folder(staged)
        if os.path.lexists(folder):  # an earlier attempt ended between this step and the next
            discard(folder)
        staged.replace(folder)
        sync_folder(folder.parent)

    def _make_youngest(self, staged: Path) -> None:
        """Its folder's time is what `names_by_age` goes by, wherever the clock was when the others were placed."""
        others = [path for path in staged.parent.iterdir() if path != staged]
        youngest = max((path.lstat().st_mtime_ns for path in others), default=0)
        if staged.stat().st_mtime_ns <= youngest:
            os.utime(staged, ns=(youngest + _COARSEST_TIME_NS,) * 2)

    def _point_to(self, name: str) -> None:
        # A link cannot be changed in place, only replaced: the rename is the one step that counts.
        fresh = self.root / f".current.{os.getpid()}"
        remove(fresh)
        fresh.symlink_to(Path("releases") / name)
        # A rename does not replace a folder, which somebody may have put there.
        if not (self.root / "current").is_symlink() and (self.root / "current").is_dir():
            set_aside(self.root / "current")
        fresh.replace(self.root / "current")
        sync_folder(self.root)


def _text(path: Path) -> str:
    """A note of this device; empty where there is none, or nothing that can be read in its place."""
    try:
        return read_plain(path, _MAX_NOTE_BYTES).decode(errors="replace")
    except OSError as e:
        if is_shortage(e):
            raise
        return ""


def _wait_s(attempts: int) -> float:
    """How long a release waits after so many attempts for want of something."""
    # Bounded before the power: after a thousand attempts 2.0**n would overflow.
    doublings = min(max(attempts - 1, 0), math.ceil(math.log2(_LONGEST_WAIT_S / _FIRST_WAIT_S)))
    return min(_FIRST_WAIT_S * 2.0**doublings, _LONGEST_WAIT_S)
