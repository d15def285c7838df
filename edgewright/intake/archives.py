"""Opening zip archives that came from outside: damaged ones and bombs are refused. No ML framework is imported here."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgewright.errors import InputError

__all__ = ["opened_archive"]

_SMALL_BYTES = 64 << 20
_MAX_RATIO = 100
"""Weights hardly compress; an archive that grows a hundredfold is made to fill the memory."""


@contextmanager
def opened_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip archive whose directory is sound.

    Raises:
        InputError: truncated or damaged, names that leave the archive, or far larger inside than outside.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, NotImplementedError) as e:
        raise InputError(f"{path}: a truncated or damaged archive: {e}") from e
    with archive:
        if all(entry.header_offset != 0 for entry in archive.infolist()):
            # What was found at the end is an archive stored inside the one whose own directory was cut off.
            raise InputError(f"{path}: a truncated or damaged archive: it does not begin with its first entry")
        inside = sum(entry.file_size for entry in archive.infolist())
        if inside > max(_SMALL_BYTES, _MAX_RATIO * path.stat().st_size):
            raise InputError(
                f"{path}: {path.stat().st_size} bytes would become {inside} bytes when unpacked; "
                f"at most {_MAX_RATIO} times the size is allowed"
            )
        for name in archive.namelist():
            if name.startswith(("/", "\\")) or ".." in Path(name).parts:
                raise InputError(f"{path}: the entry '{name}' would be written outside the archive's folder")
        try:
            yield archive
        except (zipfile.BadZipFile, zlib.error, EOFError) as e:  # found only where an entry is read
            raise InputError(f"{path}: a truncated or damaged archive: {e}") from e
