"""Environment variables. An empty one counts as not set: shells, service files and compose files leave such."""

import os
from collections.abc import Mapping

__all__ = ["default_variables", "variable"]


def variable(name: str) -> str | None:
    """The value of an environment variable; None where it is empty or not set.

    >>> os.environ["EMPTY"] = ""
    >>> variable("EMPTY")
    """
    return os.environ.get(name) or None


def default_variables(values: Mapping[str, str]) -> None:
    """Set those that are empty or not set, here and for children."""
    for name, value in values.items():
        if variable(name) is None:
            os.environ[name] = value
