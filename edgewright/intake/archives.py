"""Opening zip archives that came from outside: damaged ones, bombs, and those that two readers would read differently
are refused; what a framework loads is a copy that was written anew. No ML framework is imported here."""

import shutil
import stat
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgewright.errors import EdgewrightError, InputError, UntrustedModelError

__all__ = ["normalized", "opened_archive"]

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
    except (zipfile.BadZipFile, OSError, NotImplementedError, UnicodeDecodeError) as e:
        raise InputError(f"{path}: a truncated or damaged archive: {e}") from e
    with archive:
        if all(entry.header_offset != 0 for entry in archive.infolist()):
            # What was found at the end is an archive stored inside the one whose own directory was cut off.
            raise InputError(f"{path}: a truncated or damaged archive: it does not begin with its first entry")
        # The declared sizes bound what is unpacked: zipfile reads no more of an entry than its size here.
        inside = sum(entry.file_size for entry in archive.infolist())
        if inside > max(_SMALL_BYTES, _MAX_RATIO * path.stat().st_size):
            raise InputError(
                f"{path}: {path.stat().st_size} bytes would become {inside} bytes when unpacked; "
                f"at most {_MAX_RATIO} times the size is allowed"
            )
        _refuse_ambiguous(archive, path)
        try:
            yield archive
        # Found only where an entry is read.
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError) as e:
            raise InputError(f"{path}: a truncated or damaged archive: {e}") from e


def _refuse_ambiguous(archive: zipfile.ZipFile, path: Path) -> None:
    """Entries that leave the archive, or that one reader takes for another: a guard would look at the wrong one."""
    seen: set[str] = set()
    for entry in archive.infolist():
        name = entry.filename
        if name.startswith("/") or ".." in Path(name).parts:
            raise InputError(f"{path}: the entry '{name}' would be written outside the archive's folder")
        # zipfile cuts a name at a zero byte, which `orig_filename` keeps; some readers take a backslash for a slash.
        if "\\" in name or not name.isprintable() or entry.orig_filename != name:
            raise UntrustedModelError(f"{path}: the entry {name!r} has a name that readers take differently")
        # File systems may compose accents and fold case: two such names are one file there.
        folded = unicodedata.normalize("NFC", name).casefold()
        if folded in seen:
            raise UntrustedModelError(
                f"{path}: two entries are called '{name}', or differ in upper and lower case alone"
            )
        seen.add(folded)
        # The upper half of the attributes is the mode of Unix.
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise UntrustedModelError(f"{path}: the entry '{name}' is a link")
        # Bit 0 of the flags: encrypted.
        if entry.flag_bits & 1 or entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise InputError(f"{path}: the entry '{name}' is encrypted or compressed in a way that is not read here")


@contextmanager
def normalized(path: Path) -> Iterator[Path]:
    """A copy that holds the entries that `opened_archive` sees and nothing else, uncompressed; it goes with the block.

    Messages name the file itself.

    Raises:
        InputError, UntrustedModelError: as `opened_archive`.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        with opened_archive(path) as archive, zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as clean:
            for entry in archive.infolist():
                # Sizes are not known before the copy; without zip64, zipfile fails on an entry beyond 2 GiB.
                with (
                    archive.open(entry) as source,
                    clean.open(zipfile.ZipInfo(entry.filename), "w", force_zip64=True) as target,
                ):
                    shutil.copyfileobj(source, target)
        try:
            yield copy
        except EdgewrightError as e:
            if str(copy) not in str(e):
                raise
            raise type(e)(str(e).replace(str(copy), str(path))) from e
