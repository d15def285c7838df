"""What a cell of the zoo was measured with."""

import hashlib
from importlib import metadata
from pathlib import Path

__all__ = ["digest_of_code"]

_ROOT = Path(__file__).parents[1]


def digest_of_code(*names: str) -> str:
    """SHA-256 (16 hex digits) over the sources of modules and packages of this project, and over the versions of
    distributions; one that is not installed counts as "absent"."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0".encode())
        base = _ROOT / Path(*name.split("."))
        if name.partition(".")[0] not in {"edgewright", "edgewright_runtime"}:
            digest.update(_version(name).encode())
        elif base.is_dir():
            for source in sorted(base.rglob("*.py")):
                digest.update(source.relative_to(_ROOT).as_posix().encode() + b"\0" + source.read_bytes())
        else:
            digest.update(base.with_suffix(".py").read_bytes())
    return digest.hexdigest()[:16]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"
