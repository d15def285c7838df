"""A SQLite file of somebody else's server in the home: whether it is whole, and setting it aside where it is not."""

import sqlite3
from contextlib import closing, suppress
from itertools import count
from pathlib import Path

from edgewright.progress import progress

__all__ = ["damage_of", "set_aside_if_damaged"]

_COMPANIONS = ("-wal", "-shm", "-journal")  # SQLite finds them by the database's name
_WAIT_S = 10.0


def damage_of(path: Path) -> str | None:
    """What SQLite says of a damaged database; None of one that is whole, not there, or cannot be judged now."""
    if not path.exists():
        return None
    try:
        # mode=rw: a plain connect() makes an empty database where the file has gone meanwhile.
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_WAIT_S)) as database:
            # https://www.sqlite.org/pragma.html#pragma_quick_check: every page, but not each index against its table
            verdict = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.DatabaseError as e:
        # Its subclasses tell of a lock, a full disk or missing permission: the file itself may be sound.
        return str(e) if type(e) is sqlite3.DatabaseError else None
    return None if verdict == "ok" else " ".join(verdict.split())


def set_aside_if_damaged(path: Path, of: str) -> Path | None:
    """Rename a damaged database and its log, and tell; returns the new name. A new one can be made in its place.

    Nobody may have it open, nor open it meanwhile: the caller holds the lock that sees to this.
    """
    damage = damage_of(path)
    if damage is None:
        if path.exists() and not path.stat().st_size:  # whole to SQLite, which makes a new one of it
            progress.note(f"{path}: the database of {of} is empty (0 bytes): what it held is lost; a new one is made")
        return None
    aside = _free_name(path)
    for companion in _COMPANIONS:  # first: a log that stayed would be played into the new database
        with suppress(FileNotFoundError):
            Path(f"{path}{companion}").replace(f"{aside}{companion}")
    path.replace(aside)
    progress.note(f"{path}: the database of {of} is damaged ({damage}); set aside as {aside.name}, a new one is made")
    return aside


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.name}.damaged{f'-{n}' if n > 1 else ''}") for n in count(1))
    return next(name for name in names if not name.exists())
