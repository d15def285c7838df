"""How many bytes travel when a model is downloaded."""

import lzma
from pathlib import Path

__all__ = ["TRANSFER_PRESET", "download_bytes"]

TRANSFER_PRESET = 6  # xz's own default; a device unpacks it with the standard library alone


def download_bytes(path: Path) -> int:
    """Size of the transfer form: each file compressed by xz on its own, as a release stores it."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return sum(len(lzma.compress(file.read_bytes(), preset=TRANSFER_PRESET)) for file in files)
