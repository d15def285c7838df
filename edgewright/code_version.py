"""The version of the code that computes, for cache keys: a changed source line or library makes a new key."""

import hashlib
from functools import cache
from importlib import metadata
from pathlib import Path

__all__ = ["code_version"]

_ROOT = Path(__file__).parents[1]


@cache
def code_version(*names: str) -> str:
    """SHA-256 (16 hex digits) over the sources of modules and packages, and over the versions of distributions.

    ``edgewright.export`` names a package of this project; a name without its first part here (``onnxruntime``)
    names an installed distribution; one that is not installed counts as "absent".
    """
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0".encode())
        base = _ROOT / Path(*name.split("."))
        if name.partition(".")[0] not in {"edgewright", "edgewright_runtime"}:
            digest.update(_distribution_version(name).encode())
        elif base.is_dir():
            for source in sorted(base.rglob("*.py")):
                digest.update(source.relative_to(_ROOT).as_posix().encode() + b"\0" + source.read_bytes())
        else:
            digest.update(base.with_suffix(".py").read_bytes())
    return digest.hexdigest()[:16]


def _distribution_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"
