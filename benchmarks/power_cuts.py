"""Power cuts under an outbox, simulated: an apsw VFS keeps, drops or tears each write that was not yet synced."""

import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewright_runtime.health.outbox import Outbox

__all__ = ["PowerCuts", "power_cuts"]

_SECTOR_BYTES = 512


@dataclass
class PowerCuts:
    """``acknowledged`` records, how many of them were ``lost``, and files that were ``damaged``."""

    cuts: int = 0
    acknowledged: int = 0
    lost: int = 0
    damaged: int = 0


def power_cuts(folder: Path, count: int, chance: random.Random, *, ignore_syncs: bool = False) -> PowerCuts:
    """Cut the power under an outbox ``count`` times and look for what it had acknowledged."""
    import apsw

    figures = PowerCuts()
    disk = _disk(chance, ignore_syncs=ignore_syncs)
    for i in range(count):
        home = folder / str(i)
        home.mkdir(parents=True)

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
        outbox._file.leave()  # the process that held the file is gone with the power
        after = Outbox(home / "o.db")
        found = {record.key for record in after.batch(most=10_000, most_bytes=1 << 30)}
        figures.cuts += 1
        figures.acknowledged += len(kept)
        figures.lost += len(set(kept) - found)
        figures.damaged += after.set_aside is not None
        after.close()
        shutil.rmtree(home)
    return figures


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
