"""The version of the code that computes, for cache keys: a changed source line or library makes a new key."""

import hashlib
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

__all__ = ["code_version", "source_version"]

_PACKAGES = ("edgewright", "edgewright_runtime")
_ROOT = Path(__file__).parents[1]
_NAME = re.compile(r"[A-Za-z0-9._-]+")


@cache
def code_version(*modules: str) -> str:
    """SHA-256 (16 hex digits) over all code that runs where these modules and packages of this project do.

    That is the sources of every module that they import, directly or not, in functions too; and the versions of the
    distributions imported there, with those that these require. A distribution that is not installed counts as
    "absent".
    """
    reached = _reached(modules)
    digest = hashlib.sha256()
    for module in sorted(name for name in reached if name.partition(".")[0] in _PACKAGES):
        digest.update(module.encode() + b"\0" + _source(module).read_bytes())
    for distribution in sorted(_distributions({name.partition(".")[0] for name in reached})):
        digest.update(f"{distribution}\0{_version(distribution)}\n".encode())
    return digest.hexdigest()[:16]


def source_version(module: str, *first: Path) -> str:
    """SHA-256 (16 hex digits) over the sources of a user's module, or of its whole package where it is in one.

    It is found as a child process finds it, without running it, in the folders ``first`` before others; empty where
    it is not found.
    """
    # The working folder comes before installed packages, as for `python -m`, by which children are started.
    folders_to_search = [*map(str, first), str(Path.cwd()), *sys.path]
    spec = PathFinder.find_spec(module.partition(".")[0], folders_to_search)
    if spec is None:
        return ""
    # The whole package: which of its modules a function reaches is not known without running it.
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = [(str(f.relative_to(top)), f) for top in folders for f in sorted(top.rglob("*.py"))]
    if not folders and spec.origin:
        files = [("", Path(spec.origin))]
    digest = hashlib.sha256()
    for name, file in files:
        digest.update(f"{name}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


@cache
def _imports() -> Any:
    import grimp

    # Without a cache on disk, which grimp would write into the user's working folder.
    return grimp.build_graph(*_PACKAGES, include_external_packages=True, cache_dir=None)


def _reached(modules: tuple[str, ...]) -> set[str]:
    graph, closure = _imports(), set[str]()
    for module in modules:
        closure |= {module, *graph.find_descendants(module), *graph.find_upstream_modules(module, as_package=True)}
    return closure


def _source(module: str) -> Path:
    base = _ROOT / Path(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def _distributions(packages: set[str]) -> set[str]:
    """The distributions that bring importable packages, and what they require, by normalized name; of a package that is
    not installed its own name."""
    brought = metadata.packages_distributions()
    # An import's name is not its distribution's (PIL comes with Pillow), and several may bring the same one.
    foreign = packages - set(_PACKAGES) - sys.stdlib_module_names
    waiting = [distribution for package in foreign for distribution in brought.get(package, [package])]
    names = set[str]()
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()  # https://peps.python.org/pep-0503/#normalized-names
        if name not in names:
            names.add(name)
            waiting += _required(name)
    return names


def _required(distribution: str) -> Iterator[str]:
    try:
        listed = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return
    for requirement in listed:
        name = _NAME.match(requirement)
        # Other markers (platform, Python) are not evaluated: one distribution too many changes a key at worst.
        if name and "extra ==" not in requirement:
            yield name[0]


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "absent"
