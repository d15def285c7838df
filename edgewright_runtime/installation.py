"""What is installed on this device, and how one version takes another's place in a single step.

``ROOT/current``                         symbolic link to the active release: the pointer, flipped atomically
``ROOT/releases/CHANNEL.VERSION/``       ``release.json``, ``previous`` (a name) and ``bundle`` (a link)
``ROOT/bundles/DIGEST/``                 a bundle's files, complete and checked before they get this name
``ROOT/staging/``                        downloads under way
``ROOT/highest/CHANNEL``, ``ROOT/refused/NAME``, ``ROOT/trial``, ``ROOT/device_id``

``ROOT/current/bundle`` is the path an application opens.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edgewright_runtime.bundle import open_bundle
from edgewright_runtime.errors import EdgeRuntimeError, IntegrityError, RollbackError
from edgewright_runtime.release import ReleaseDocument, parse_release

__all__ = ["Installation", "Installed", "discard", "kept_once", "sync_folder", "write_durably"]


_RELEASE_NAME = re.compile(r"[a-z0-9_-]+\.[0-9]+")


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
        for folder in (root, self.staging, root / "bundles", root / "releases", root / "highest", root / "refused"):
            folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """One change at a time: a second process is refused, not queued."""
        with (self.root / ".lock").open("ab") as lock:
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

    def installed(self, name: str) -> Installed:
        """A release by its name.

        Raises:
            IntegrityError: it is not there, or its document is damaged.
        """
        folder = self.root / "releases" / name
        try:
            release = parse_release((folder / "release.json").read_bytes())
            previous = (folder / "previous").read_text().strip() if (folder / "previous").exists() else ""
            bundle = folder / (folder / "bundle").readlink()
        except (OSError, UnicodeDecodeError) as e:
            raise IntegrityError(f"{folder}: the installed release cannot be read: {e}") from e
        return Installed(name, release, Path(os.path.normpath(bundle)), previous or None)

    def names(self) -> list[str]:
        """All releases on this device, oldest first within a channel."""
        folders = [p.name for p in (self.root / "releases").iterdir() if _RELEASE_NAME.fullmatch(p.name)]
        return sorted(folders, key=lambda name: (name.rpartition(".")[0], int(name.rpartition(".")[2])))

    def highest_version(self, channel: str) -> int:
        """The highest version of a channel that was ever installed here; 0 before the first."""
        path = self.root / "highest" / channel
        # What is installed counts, too: a kill may have come between the pointer's flip and this file.
        kept = [int(name.rpartition(".")[2]) for name in self.names() if name.rpartition(".")[0] == channel]
        with suppress(ValueError):  # a damaged file must not end all updates
            kept += [int(path.read_text())] if path.exists() else []
        return max(kept, default=0)

    def bundle_folder(self, manifest_sha256: str) -> Path:
        """Where a bundle lies once it is complete."""
        return self.root / "bundles" / manifest_sha256

    def is_refused(self, name: str) -> bool:
        """Whether this device went back from that release, or found that it does not work."""
        return (self.root / "refused" / name).exists()

    def refusal(self, name: str) -> str:
        """Why a release is not taken again."""
        return (self.root / "refused" / name).read_text(errors="replace")

    def refusals(self) -> dict[str, str]:
        """Every release that is not taken again, and why."""
        found = sorted(p for p in (self.root / "refused").iterdir() if not p.name.startswith("."))
        return {path.name: path.read_text(errors="replace") for path in found}

    def refuse(self, name: str, reason: str) -> None:
        """Never take that release again."""
        write_durably(self.root / "refused" / name, reason.encode())

    def activate(self, release: ReleaseDocument, content: bytes) -> Installed:
        """Make a release whose bundle is complete the current one; the one before it is kept.

        Whatever instant the power fails at, ``current`` is the old release or the new one.
        """
        name = f"{release.channel}.{release.version}"
        before = self.current()
        folder = self.root / "releases" / name
        if before is None or before.name != name:
            self._place_release(folder, release, content, before.name if before else "")
            if before is not None:
                self.begin_trial(name)
            self._point_to(name)
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
            kept = ", ".join(other for other in self.names() if other != now.name) or "none"
            raise RollbackError(f"release '{name}' is no other release that is kept here; there are: {kept}")
        try:
            target = self.installed(name)
            open_bundle(target.bundle)
        except IntegrityError as e:
            raise RollbackError(f"the earlier release {name} cannot be used: {e}") from e
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
                found = self.installed(name)
                open_bundle(found.bundle)
            except IntegrityError:
                continue
            self._point_to(name)
            return found
        (self.root / "current").unlink(missing_ok=True)
        sync_folder(self.root)
        return None

    def begin_trial(self, name: str) -> None:
        """Put a release on trial: until `end_trial` its starts are counted. Written before it becomes current."""
        write_durably(self.root / "trial", f"{name} 0".encode())

    def trial_starts(self) -> int | None:
        """How often the current release was started on trial; None where it is not on trial."""
        path, current = self.root / "trial", self.current()
        if current is None or not path.exists():
            return None
        name, _, starts = path.read_text(errors="replace").partition(" ")
        return int(starts) if name == current.name and starts.isdigit() else None

    def count_trial_start(self) -> int | None:
        """Count one more start of a release on trial."""
        starts, current = self.trial_starts(), self.current()
        if starts is None or current is None:
            return None
        write_durably(self.root / "trial", f"{current.name} {starts + 1}".encode())
        return starts + 1

    def end_trial(self) -> None:
        """The current release has proved itself."""
        (self.root / "trial").unlink(missing_ok=True)
        sync_folder(self.root)

    def names_by_age(self) -> list[str]:
        """All releases on this device, the one that was installed first in front."""
        return sorted(self.names(), key=lambda name: (self.root / "releases" / name).stat().st_mtime_ns)

    def keep_beside(self, release: ReleaseDocument, content: bytes) -> Installed:
        """Keep a release whose bundle is complete without making it the current one."""
        name = f"{release.channel}.{release.version}"
        folder = self.root / "releases" / name
        if not folder.exists():
            self._place_release(folder, release, content, "")
        self._raise_highest(release)
        return self.installed(name)

    def _raise_highest(self, release: ReleaseDocument) -> None:
        highest = max(release.version, self.highest_version(release.channel))
        write_durably(self.root / "highest" / release.channel, str(highest).encode())

    def _place_release(self, folder: Path, release: ReleaseDocument, content: bytes, previous: str) -> None:
        staged = folder.with_name(f".{folder.name}")
        if staged.exists():
            shutil.rmtree(staged)
        staged.mkdir()
        write_durably(staged / "release.json", content)
        write_durably(staged / "previous", previous.encode())
        (staged / "bundle").symlink_to(Path("..") / ".." / "bundles" / release.manifest.sha256)
        sync_folder(staged)
        if folder.exists():  # an earlier attempt ended between this step and the next
            discard(folder)
        staged.replace(folder)
        sync_folder(folder.parent)

    def _point_to(self, name: str) -> None:
        fresh = self.root / f".current.{os.getpid()}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(Path("releases") / name)
        fresh.replace(self.root / "current")
        sync_folder(self.root)


def discard(folder: Path) -> None:
    """Delete a folder so that it is either whole or gone; what a crash leaves has a hidden name."""
    hidden = folder if folder.name.startswith(".") else folder.with_name(f".{folder.name}.gone")
    if hidden != folder:
        if hidden.exists():
            shutil.rmtree(hidden)
        folder.replace(hidden)
        sync_folder(folder.parent)
    shutil.rmtree(hidden)


def kept_once(path: Path, make: Callable[[], bytes], mode: int = 0o644) -> bytes:
    """The content of a file that is made when it is first needed, by one of the processes that need it."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f".{path.name}.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                write_durably(path, make(), mode)
    return path.read_bytes()


def write_durably(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file so that a power cut leaves the old content or the new; nobody reads it with more than ``mode``."""
    staged = path.with_name(f".{path.name}.part")
    staged.unlink(missing_ok=True)  # one that a kill left keeps its own mode
    with open(staged, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    staged.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
