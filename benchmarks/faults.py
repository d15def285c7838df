"""Kills and power cuts: what a device acknowledged must be there afterwards, and its model must be whole.

``make faults`` runs 1,000 of each and prints the figures. A kill is SIGKILL to the whole process group, at a random
instant, of a device that installs, patches, activates, rolls back, logs or syncs. At every second round the golden
vectors run in their child process, as in the field; at the others they are left out, so that the kills fall where
state changes. After each kill every byte of the current model is compared with its digest, and an interrupted update
is tried again and must succeed. `power_cuts` are simulated under the outbox. A control shows that the simulation can
find a loss: the same on a disk that ignores every sync.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.local_cloud import running_cloud
from benchmarks.power_cuts import power_cuts
from edgewright.cloud.database import Database
from edgewright.package import Bundle
from edgewright.release import publish
from edgewright_runtime.bundle.opening import open_bundle
from edgewright_runtime.errors import EdgeRuntimeError
from edgewright_runtime.health.outbox import Outbox
from edgewright_runtime.predict.cloud import CloudClient
from edgewright_runtime.predict.offline import sync
from edgewright_runtime.update import updater
from edgewright_runtime.update.installation import Installation
from tests.runtime.patchable import bundle

__all__ = ["Figures", "kills", "power_cuts"]

_CHANNEL = "stable"
_LINE = f"churn.edge_device.{_CHANNEL}"
_CONTROL_CUTS = 30
_DEATH_S = 5.0
_UPDATES = ("install", "patch", "activate")
_KINDS = (*_UPDATES, "rollback", "log", "sync")


@dataclass
class Figures:
    """``acknowledged`` records and how many of them were ``lost``; ``half`` models, which must be none.

    ``interrupted`` kills came before the work was done, ``in_golden_check`` while the golden vectors' child ran.
    ``survivors`` are processes of a killed group that lived on; ``retried`` updates succeeded after a kill, ``patched``
    of them by a patch.
    """

    kills: int = 0
    power_cuts: int = 0
    acknowledged: int = 0
    lost: int = 0
    half: int = 0
    control_lost: int = 0
    by_kind: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_KINDS, 0))
    interrupted: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_KINDS, 0))
    in_golden_check: int = 0
    survivors: int = 0
    retried: int = 0
    patched: int = 0
    server_count: int = 0
    device_count: int = 0


def main() -> None:
    """Run both suites and write what they found."""
    options = _parser().parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        figures = kills(Path(folder), options.kills, chance)
    with tempfile.TemporaryDirectory() as folder:
        cut = power_cuts(Path(folder), options.power_cuts, chance)
    with tempfile.TemporaryDirectory() as folder:
        figures.control_lost = power_cuts(Path(folder), _CONTROL_CUTS, chance, ignore_syncs=True).lost
    figures.power_cuts = cut.cuts
    figures.acknowledged += cut.acknowledged
    figures.lost += cut.lost
    figures.half += cut.damaged
    print(json.dumps(asdict(figures), indent=1))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(asdict(figures), indent=1) + "\n")
    if not figures.control_lost:
        sys.exit("FAILED: the control lost nothing, so the simulation proves nothing")
    if figures.lost or figures.half or figures.survivors or figures.server_count != figures.device_count:
        sys.exit("FAILED: something acknowledged was lost, a model was left half installed, or a process lived on")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--power-cuts", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "faults.json")
    return parser


def kills(folder: Path, count: int, chance: random.Random) -> Figures:
    """Kill a process ``count`` times while it changes the device's state."""
    figures = Figures()
    bundles = [bundle(folder / f"bundle{i}", tuned=1e-4 * i) for i in range(3)]
    releases = _Releases(bundles, folder / "repository", folder / "device")
    acknowledged: set[str] = set()
    with running_cloud(f"sqlite:///{folder / 'cloud.db'}") as (url, token, database):
        device = _Victim(releases, CloudClient(url, token, attempts=1))
        for i in range(count):
            kind = _KINDS[i % len(_KINDS)]
            allowed = releases.prepare(kind)
            finished = device.killed_in(kind, chance, acknowledged, figures, golden=(i // len(_KINDS)) % 2 == 0)
            figures.kills += 1
            figures.by_kind[kind] += 1
            figures.interrupted[kind] += not finished
            figures.half += not _is_whole(releases.root, allowed, kind)
            if kind in _UPDATES:
                outcome = releases.update()
                figures.retried += releases.version() == releases.newest
                figures.patched += bool(outcome.patched)
        outbox = Outbox(releases.root / "outbox.db")
        sync(outbox, CloudClient(url, token), {})
        arrived = _keys(database)
        figures.device_count = outbox.counters()["added"] - outbox.counters()["dropped"]
        figures.server_count = len(arrived)
        figures.acknowledged += len(acknowledged)
        figures.lost += len(acknowledged - arrived)
    if figures.retried != sum(figures.by_kind[kind] for kind in _UPDATES):
        raise AssertionError("an update that was killed did not succeed when it was tried again")
    return figures


class _Releases:
    """The repository, and the device's folder between two kills."""

    def __init__(self, bundles: list[Bundle], repository: Path, root: Path) -> None:
        self._bundles, self.repository, self.root = bundles, repository, root
        self._number = self.newest = 0
        self._publish(0)
        self.update()

    def prepare(self, kind: str) -> set[int]:
        """Something new for this kind of change; returns the versions that may be current afterwards."""
        if kind in _UPDATES or kind == "rollback":
            if self.version() != self.newest:
                self._publish(1)
            self.update()
        before = self.version()
        if kind == "rollback":
            previous = Installation(self.root).installed(f"{_LINE}.{before}").previous
            return {before, int(str(previous).rpartition(".")[2])}
        if kind == "install":  # published twice: the patch in the second is for a base that this device never had
            self._publish(1)
            self._publish(0)
        elif kind == "patch":
            self._publish(1)
        elif kind == "activate":  # the bundle is here already, the release is new
            self._publish(0)
        return {before, self.newest}

    def update(self) -> updater.Outcome:
        """A whole update in this process, without the golden vectors' child."""
        return without_golden_child(self._updated)

    def _updated(self) -> updater.Outcome:
        return updater.Updater(str(self.repository), _CHANNEL, self.root).update(ignore_cohort=True)

    def version(self) -> int:
        """The current release's version; 0 before the first."""
        current = Installation(self.root).current()
        return current.release.version if current else 0

    def _publish(self, step: int) -> None:
        self._number += step
        made = self._bundles[self._number % len(self._bundles)]
        # Another share of the devices makes another release of the same bundle.
        self.newest = publish(made, str(self.repository), _CHANNEL, cohort_percent=self.newest % 100).version


def without_golden_child(work: Callable[[], updater.Outcome]) -> updater.Outcome:
    """Do something while the digests alone decide whether a bundle is good."""
    usual = updater.check_bundle_in_child
    updater.check_bundle_in_child = open_bundle  # type: ignore[assignment]
    try:
        return work()
    finally:
        updater.check_bundle_in_child = usual


class _Victim:
    """Forks a process that does one thing, and kills it with all that it started."""

    def __init__(self, releases: _Releases, cloud: CloudClient) -> None:
        self._releases, self._cloud = releases, cloud
        self._typical_s: dict[tuple[str, bool], float] = {}

    def killed_in(
        self, kind: str, chance: random.Random, acknowledged: set[str], figures: Figures, *, golden: bool
    ) -> bool:
        """Whether it had finished before the signal came."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            os.close(reading)
            self._live(kind, writing, golden=golden)
        os.close(writing)
        began = time.monotonic()
        typical_s = self._typical_s.get((kind, golden), 0.05)
        time.sleep(chance.uniform(0, 1.3 * typical_s))
        done, _ = os.waitpid(child, os.WNOHANG)
        if not done:
            figures.in_golden_check += len(_group(child)) > 1
            _kill_group(child)
            os.waitpid(child, 0)
            figures.survivors += _survivors(child)
            typical_s = min(typical_s * 1.05, 5.0)
        else:
            typical_s = max(min(typical_s, time.monotonic() - began) * 0.9, 0.002)
        self._typical_s[kind, golden] = typical_s
        with os.fdopen(reading) as pipe:
            acknowledged.update(line.strip() for line in pipe if line.endswith("\n"))
        return bool(done)

    def _live(self, kind: str, pipe: int, *, golden: bool) -> None:
        try:
            if kind in _UPDATES:
                self._update(golden=golden)
            else:
                {"rollback": self._roll_back, "log": self._log, "sync": self._sync}[kind](pipe)
        finally:
            os._exit(0)

    def _update(self, *, golden: bool) -> None:
        if golden:
            updater.Updater(str(self._releases.repository), _CHANNEL, self._releases.root).update(ignore_cohort=True)
        else:
            self._releases.update()

    def _roll_back(self, _: int) -> None:
        installation = Installation(self._releases.root)
        with installation.exclusive():
            installation.rollback()

    def _log(self, pipe: int) -> None:
        outbox = Outbox(self._releases.root / "outbox.db")
        for n in range(200):
            os.write(pipe, f"{outbox.add({'kind': 'prediction', 'n': n})}\n".encode())

    def _sync(self, _: int) -> None:
        sync(Outbox(self._releases.root / "outbox.db"), self._cloud, {})


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:  # it has not come to make its group yet
        os.kill(leader, signal.SIGKILL)


def _survivors(leader: int) -> int:
    """Processes of a killed group that still run a while later: the kernel takes a moment to end each."""
    deadline = time.monotonic() + _DEATH_S
    while (left := len(_group(leader))) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


def _group(leader: int) -> list[int]:
    """The living processes of a group; a zombie is dead."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it ended while we looked
            continue
        if int(group) == leader and state != "Z":
            found.append(int(path.parent.name))
    return found


def _is_whole(root: Path, allowed: set[int], kind: str) -> bool:
    """The current model is the old one or the new one, and every byte of it is right."""
    try:
        current = Installation(root).current()
        if current is None:
            return False
        open_bundle(current.bundle)
    except EdgeRuntimeError as e:
        print(f"after a kill in {kind}: {e}", file=sys.stderr)
        return False
    return current.release.version in allowed


def _keys(database: Database) -> set[str]:
    import sqlalchemy as sa

    with database._engine.connect() as connection:
        return set(connection.execute(sa.text("SELECT key FROM records")).scalars())


if __name__ == "__main__":
    main()
