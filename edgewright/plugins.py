"""What other distributions register by entry points: techniques (``edgewright.techniques``), targets
(``edgewright.targets``), exporters (``edgewright.exporters``) and metrics (``edgewright.metrics``).
"""

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from edgewright.code_version import source_version
from edgewright.errors import ProfileError

__all__ = ["plugin", "plugin_code", "plugin_names"]


def plugin_names(group: str) -> list[str]:
    """Names of a group's entry points; nothing is imported."""
    return sorted(entry.name for entry in entry_points(group=group))


def plugin(group: str, name: str, is_right: Callable[[Any], bool], what: str) -> Any:
    """Import what an entry point names; ``what`` says what it must be.

    Raises:
        ProfileError: it cannot be imported, or is something else.
    """
    (entry, *_) = entry_points(group=group, name=name)
    kind = group.rpartition(".")[2].removesuffix("s")
    try:
        extension = entry.load()
    except Exception as e:  # another's code
        raise ProfileError(f"{kind} '{name}' ({entry.value}) cannot be imported: {type(e).__name__}: {e}") from e
    if not is_right(extension):
        raise ProfileError(f"{kind} '{name}' ({entry.value}) is not {what}")
    return extension


def plugin_code(group: str, name: str) -> str:
    """The version of a plugin's sources, for cache keys; see `source_version`."""
    (entry, *_) = entry_points(group=group, name=name)
    return source_version(entry.module)
