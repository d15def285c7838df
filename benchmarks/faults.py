"""Kills and power cuts: what a device acknowledged must be there afterwards, and its model must be whole.

``make faults`` runs 1,000 of each and prints the figures. A kill is SIGKILL at a random instant of a process that
installs, patches, rolls back, logs or syncs; the digests of the current model are compared after each. A power cut is
simulated: an apsw VFS under the outbox keeps, drops or tears each write that was not yet synced. A control shows that
the simulation can find a loss: the same on a disk that ignores every sync.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgewright.cloud.database import Database
from edgewright.deploy import publish
from edgewright.package import Bundle
from edgewright_runtime import updater
from edgewright_runtime.bundle import open_bundle
from edgewright_runtime.cloud import CloudClient
from edgewright_runtime.errors import EdgeRuntimeError, RollbackError
from edgewright_runtime.installation import Installation
from edgewright_runtime.offline import sync
from edgewright_runtime.outbox import Outbox
from tests.bundles import table_parts

_CHANNEL = "stable"
_SECTOR_BYTES = 512
_CONTROL_CUTS = 30
_KINDS = ("install", "rollback", "log", "sync")


@dataclass
class Figures:
    """``acknowledged`` records and how many of them were ``lost``; ``half`` models, which must be none."""

    kills: int = 0
    power_cuts: int = 0
    acknowledged: int = 0
    lost: int = 0
    half: int = 0
    control_lost: int = 0
    by_kind: dict[str, int] = field(default_factory=dict)
    interrupted: dict[str, int] = field(default_factory=dict)
    server_count: int = 0
    device_count: int = 0


def main() -> None:
    """Run both suites and write what they found."""
    options = _parser().parse_args()
    chance = random.Random(options.seed)
    figures = Figures()
    with tempfile.TemporaryDirectory() as folder:
        kills(Path(folder), options.kills, chance, figures)
    with tempfile.TemporaryDirectory() as folder:
        power_cuts(Path(folder), options.power_cuts, chance, figures)
    with tempfile.TemporaryDirectory() as folder:
        control = Figures()
        power_cuts(Path(folder), _CONTROL_CUTS, chance, control, ignore_syncs=True)
        figures.control_lost = control.lost
    print(json.dumps(asdict(figures), indent=1))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(asdict(figures), indent=1) + "\n")
    if not figures.control_lost:
        sys.exit("FAILED: the control lost nothing, so the simulation proves nothing")
    if figures.lost or figures.half or figures.server_count != figures.device_count:
        sys.exit("FAILED: something acknowledged was lost, or a model was left half installed")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--power-cuts", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "faults.json")
    return parser


def kills(folder: Path, count: int, chance: random.Random, figures: Figures) -> None:
    """Kill a process ``count`` times while it changes the device's state."""
    # The child that runs golden vectors changes no state and takes a second: the kills go where state changes.
    updater.check_bundle_in_child = open_bundle  # type: ignore[assignment]
    bundles = [table_parts(folder / f"bundle{seed}", seed=seed).build() for seed in (1, 2, 3)]
    repository, root = folder / "repository", folder / "device"
    publish(bundles[0], str(repository), _CHANNEL)
    updater.Updater(str(repository), _CHANNEL, root).update()
    acknowledged: set[str] = set()
    with running_cloud(f"sqlite:///{folder / 'cloud.db'}") as (url, token, database):
        device = _Victim(repository, root, CloudClient(url, token, attempts=1))
        for i in range(count):
            kind = _KINDS[i % len(_KINDS)]
            if kind in {"install", "rollback"}:
                _publish_next(bundles, repository, root, i)
            before = _version(root)
            finished = device.killed_in(kind, chance, acknowledged)
            figures.kills += 1
            figures.by_kind[kind] = figures.by_kind.get(kind, 0) + 1
            figures.interrupted[kind] = figures.interrupted.get(kind, 0) + (not finished)
            figures.half += not _is_whole(root, before, kind)
        outbox = Outbox(root / "outbox.db")
        sync(outbox, CloudClient(url, token), {})
        arrived = _keys(database)
        figures.device_count = outbox.counters()["added"] - outbox.counters()["dropped"]
        figures.server_count = len(arrived)
        figures.acknowledged += len(acknowledged)
        figures.lost += len(acknowledged - arrived)


class _Victim:
    """Forks a process that does one thing over and over, and kills it."""

    def __init__(self, repository: Path, root: Path, cloud: CloudClient) -> None:
        self._repository, self._root, self._cloud = repository, root, cloud
        self._typical_s = dict.fromkeys(_KINDS, 0.05)

    def killed_in(self, kind: str, chance: random.Random, acknowledged: set[str]) -> bool:
        """Whether it had finished before the signal came."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            self._live(kind, writing)
        os.close(writing)
        began = time.monotonic()
        time.sleep(chance.uniform(0, 1.3 * self._typical_s[kind]))
        done, _ = os.waitpid(child, os.WNOHANG)
        if not done:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            self._typical_s[kind] = min(self._typical_s[kind] * 1.02, 1.0)
        else:
            self._typical_s[kind] = max(min(self._typical_s[kind], time.monotonic() - began) * 0.9, 0.002)
        with os.fdopen(reading) as pipe:
            acknowledged.update(line.strip() for line in pipe if line.endswith("\n"))
        return bool(done)

    def _live(self, kind: str, pipe: int) -> None:
        try:
            _WORK[kind](self, pipe)
        finally:
            os._exit(0)

    def install(self, _: int) -> None:
        updater.Updater(str(self._repository), _CHANNEL, self._root).update(ignore_cohort=True)

    def rollback(self, _: int) -> None:
        installation = Installation(self._root)
        with installation.exclusive():
            installation.rollback()

    def log(self, pipe: int) -> None:
        outbox = Outbox(self._root / "outbox.db")
        for n in range(200):
            os.write(pipe, f"{outbox.add({'kind': 'prediction', 'n': n})}\n".encode())

    def sync(self, _: int) -> None:
        sync(Outbox(self._root / "outbox.db"), self._cloud, {})


_WORK: dict[str, Callable[[_Victim, int], None]] = {
    "install": _Victim.install,
    "rollback": _Victim.rollback,
    "log": _Victim.log,
    "sync": _Victim.sync,
}


def _publish_next(bundles: list[Bundle], repository: Path, root: Path, i: int) -> None:
    """Something new to install; a rollback needs a release to go back from."""
    publish(bundles[i % len(bundles)], str(repository), _CHANNEL, cohort_percent=i % 100)
    if _KINDS[i % len(_KINDS)] == "rollback":
        try:
            updater.Updater(str(repository), _CHANNEL, root).update(ignore_cohort=True)
        except RollbackError:
            return


def _version(root: Path) -> int:
    current = Installation(root).current()
    return current.release.version if current else 0


def _is_whole(root: Path, before: int, kind: str) -> bool:
    """The current model is the old one or the new one, and every byte of it is right."""
    try:
        current = Installation(root).current()
        if current is None:
            return False
        open_bundle(current.bundle)
    except EdgeRuntimeError as e:
        print(f"after a kill in {kind}: {e}", file=sys.stderr)
        return False
    return kind in {"install", "rollback"} or current.release.version == before


@contextmanager
def running_cloud(url: str) -> Iterator[tuple[str, str, Database]]:
    """The real server in a process of its own, over the database at ``url``: its address, a device's token."""
    database = Database(url)
    token = database.add_device("device")
    code = (
        "import sys, uvicorn\n"
        "from edgewright.cloud.database import Database\n"
        "from edgewright.cloud.app import create_app\n"
        "server = uvicorn.Server(uvicorn.Config(create_app(Database(sys.argv[1])), port=0, log_level='error'))\n"
        "startup = server.startup\n"
        "async def told(sockets=None):\n"
        "    await startup(sockets)\n"
        "    print(server.servers[0].sockets[0].getsockname()[1], flush=True)\n"
        "server.startup = told\n"
        "server.run()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}", token, database
        finally:
            process.terminate()
            process.wait()
            database.close()


def _keys(database: Database) -> set[str]:
    import sqlalchemy as sa

    with database._engine.connect() as connection:
        return set(connection.execute(sa.text("SELECT key FROM records")).scalars())


def power_cuts(
    folder: Path, count: int, chance: random.Random, figures: Figures, *, ignore_syncs: bool = False
) -> None:
    """Cut the power under an outbox ``count`` times and look for what it had acknowledged."""
    import apsw

    disk = _disk(chance, ignore_syncs=ignore_syncs)
    for i in range(count):
        home = folder / str(i)
        home.mkdir()

        def connect(path: Path) -> Any:
            # Without shared memory: a VFS written in Python has none. The log and its syncs are the same.
            connection = apsw.Connection(str(path), vfs=disk.name)
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            return connection

        outbox = Outbox(home / "o.db", connect=connect)
        kept: list[str] = []
        for _ in range(chance.randrange(1, 30)):
            kept += outbox.add_many([{"n": "x" * chance.randrange(10, 2000)}] * chance.randrange(1, 4))
            if chance.random() < 0.2:
                outbox.acknowledge(kept[:1])
                kept = kept[1:]
        disk.cut(home)
        after = Outbox(home / "o.db")
        found = {record.key for record in after.batch(most=10_000, most_bytes=1 << 30)}
        figures.power_cuts += 1
        figures.acknowledged += len(kept)
        figures.lost += len(set(kept) - found)
        figures.half += after.set_aside is not None
        after.close()
        shutil.rmtree(home)


def _disk(chance: random.Random, *, ignore_syncs: bool) -> Any:  # noqa: C901 - two classes that need apsw, together
    """An apsw VFS whose files remember what was synced."""
    import apsw

    class File(apsw.VFSFile):
        def __init__(self, disk: "Disk", name: Any, flags: list[int]) -> None:
            self.path = name.filename() if isinstance(name, apsw.URIFilename) else name
            self._disk = disk
            super().__init__("", name, flags)
            disk.durable.setdefault(self.path, None)
            disk.pending.setdefault(self.path, [])

        def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
            super().xWrite(data, offset)
            self._disk.pending[self.path].append((offset, bytes(data)))

        def xTruncate(self, size: int) -> None:  # noqa: N802
            super().xTruncate(size)
            self._disk.pending[self.path].append((size, None))

        def xSync(self, flags: int) -> None:  # noqa: N802
            super().xSync(flags)
            if not ignore_syncs:
                self._disk.sync(self.path)

    class Disk(apsw.VFS):
        name = "power-cut-control" if ignore_syncs else "power-cut"

        def __init__(self) -> None:
            self.durable: dict[str, bytes | None] = {}
            self.pending: dict[str, list[tuple[int, bytes | None]]] = {}
            super().__init__(self.name, "")

        def xOpen(self, name: Any, flags: list[int]) -> File:  # noqa: N802
            return File(self, name, flags)

        def xDelete(self, name: str, sync_folder: bool) -> None:  # noqa: N802
            super().xDelete(name, sync_folder)
            self.durable.pop(name, None)
            self.pending.pop(name, None)

        def sync(self, path: str) -> None:
            self.durable[path] = Path(path).read_bytes()
            self.pending[path] = []

        def cut(self, folder: Path) -> None:
            """Leave on the disk what a power cut would: synced bytes, and any part of the rest."""
            for path in [p for p in self.durable if Path(p).parent == folder]:
                content = bytearray(self.durable.pop(path) or b"")
                for offset, data in self.pending.pop(path):
                    _maybe_apply(content, offset, data, chance)
                Path(path).write_bytes(content)

    return Disk()


def _maybe_apply(content: bytearray, offset: int, data: bytes | None, chance: random.Random) -> None:
    fate = chance.choice(["kept", "dropped", "torn"])
    if fate == "dropped":
        return
    if data is None:
        del content[offset:]
        return
    if fate == "torn":
        # A sector is written whole or not at all, in no order.
        for start in range(0, len(data), _SECTOR_BYTES):
            if chance.random() < 0.5:
                _put(content, offset + start, data[start : start + _SECTOR_BYTES])
        return
    _put(content, offset, data)


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(b"\0" * (offset - len(content)))
    content[offset : offset + len(data)] = data


if __name__ == "__main__":
    main()
