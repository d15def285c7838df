"""What travels when a model is downloaded: each file as ``.ewz`` or xz, whichever a device rebuilds it from."""

import hashlib
import lzma
from pathlib import Path

from edgewright.errors import InputError
from edgewright.store import home, replace_file
from edgewright_runtime.ewz import is_ewz, rebuild

__all__ = ["download_bytes", "transfer_form", "unpacked"]

_XZ_PRESET = 6  # xz's own default; a device unpacks it in steps of a block
_MODEL_SUFFIXES = {".tflite", ".onnx", ".bin"}
# An .ewz is rebuilt in memory, at up to some twenty times its size; a larger file is sent as xz.
_LARGEST_CODED_BYTES = 64 << 20
# An xz unpacks in bounded memory, so an .ewz has to be worth it.
_LEAST_SAVING = 0.005


def download_bytes(path: Path) -> int:
    """Bytes of the transfer form of a file, or of all files in a folder (a package, a bundle)."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return sum(len(transfer_form(file)) for file in files)


def transfer_form(path: Path) -> bytes:
    """The bytes that a device downloads instead of this file; kept in the store, since coding a model takes seconds."""
    content = path.read_bytes()
    if path.suffix not in _MODEL_SUFFIXES or len(content) > _LARGEST_CODED_BYTES:
        return _xz(content)
    folder = home() / "transfer" / hashlib.sha256(content).hexdigest()
    for kept in folder.glob("*"):
        found = kept.read_bytes()
        if hashlib.sha256(found).hexdigest() == kept.name:
            return found
    made = _smaller(content)
    replace_file(folder / hashlib.sha256(made).hexdigest(), made)
    return made


def unpacked(packed: bytes, limit_bytes: int) -> bytes:
    """The original of a transfer form, which is at most ``limit_bytes`` long.

    Raises:
        IntegrityError: a damaged ``.ewz``.
        LZMAError: a damaged xz.
    """
    return rebuild(packed, limit_bytes=limit_bytes) if is_ewz(packed) else lzma.decompress(packed)


def _smaller(content: bytes) -> bytes:
    from edgewright.optimize.coding.containers import find_tensors
    from edgewright.optimize.coding.writer import encode

    packed = _xz(content)
    try:
        coded = encode(content, find_tensors(content)).data
    except InputError:  # named like a model, and none
        return packed
    return coded if len(coded) <= (1 - _LEAST_SAVING) * len(packed) else packed


def _xz(content: bytes) -> bytes:
    return lzma.compress(content, preset=_XZ_PRESET)
