"""The version of the code that computes, for cache keys: a changed source line or library makes a new key."""

import hashlib
import sys
from functools import cache
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path

__all__ = ["code_version", "source_version"]

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


def source_version(module: str, *first: Path) -> str:
    """SHA-256 (16 hex digits) over the sources of a user's module, or of its whole package where it is in one.

    It is found as a child process finds it, without running it, in the folders ``first`` before others; empty where
    it is not found.
    """
    folders_to_search = [*map(str, first), str(Path.cwd()), *sys.path]
    spec = PathFinder.find_spec(module.partition(".")[0], folders_to_search)
    if spec is None:
        return ""
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = [(str(f.relative_to(top)), f) for top in folders for f in sorted(top.rglob("*.py"))]
    if not folders and spec.origin:
        files = [("", Path(spec.origin))]
    digest = hashlib.sha256()
    for name, file in files:
        digest.update(f"{name}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _distribution_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"
