"""What stands in a pickled model for names that it may hold, and that no file may call as it likes.

A fitted model keeps functions that it uses in training only (scores of features, metrics of a search), and some that
it calls in one known way. Each is replaced by what cannot do anything else.
"""

import importlib
import inspect
import re
from types import FunctionType
from typing import Any

import numpy as np

from edgewright.errors import UntrustedModelError

__all__ = ["is_function", "is_only_held", "shown", "stand_in", "zone"]

_CHECK_ARRAY = object()
"""Stand-in for scikit-learn's function of that name: nothing that a file can call."""
_CHECKED = {"dtype": [np.float64], "ensure_all_finite": False}
_ZONE_INFO = object()
"""Stand-in for the class of time zones, which are made by `zone`."""
_AS_ARRAY = re.compile(r"scipy\.(?:_lib|_external)\.array_api_compat\.numpy\._aliases\.asarray")
_SCORES = re.compile(
    r"sklearn\.(?:metrics(?:\._classification|\._regression|\._ranking|\.cluster\._supervised)?"
    r"|feature_selection(?:\._univariate_selection|\._mutual_info)?)\.[a-z][a-z0-9_]*"
)
_DISTRIBUTIONS = re.compile(r"scipy\.stats\._(?:continuous_distns|discrete_distns|distn_infrastructure)\.[a-z0-9_]+")
_IN_SEARCHES = re.compile(r".*_gen|rv_(?:continuous|discrete)_frozen")


def stand_in(module: str, name: str) -> Any:
    """What a file gets for a name; None where nothing stands for it."""
    asked = f"{module}.{name}"
    match asked:
        case "functools.partial":
            return _InputCheck
        case "sklearn.utils.validation.check_array":
            return _CHECK_ARRAY
        case "zoneinfo.ZoneInfo":
            return _ZONE_INFO
        case "builtins.getattr":
            return _method_of_zones
    if _AS_ARRAY.fullmatch(asked):
        return _as_array
    if _DISTRIBUTIONS.fullmatch(asked) and _IN_SEARCHES.fullmatch(name):
        return _Unused
    return _score(module, name) if _SCORES.fullmatch(asked) else None


def is_only_held(module: str, name: str) -> bool:
    """Whether a name is of a function that a ``.skops`` file may hold as it is: nothing there calls it."""
    # Not partial, getattr or check_array: skops builds objects by itself, and would call them.
    standing = stand_in(module, name)
    return standing is _as_array or isinstance(standing, _Score)


def is_function(thing: Any) -> bool:
    """Whether a thing is a function, or stands for one."""
    return isinstance(thing, (FunctionType, _Score))


class _InputCheck:
    """Stand-in for ``functools.partial`` in the one form that fitted estimators hold: histogram boosting's input check.

    Raises:
        UntrustedModelError: it binds another function, or other arguments.
    """

    def __init__(self, *bound: Any) -> None:
        if len(bound) != 1 or bound[0] is not _CHECK_ARRAY:
            raise UntrustedModelError("asks for functools.partial of another function; nothing of it has run")

    def __setstate__(self, state: Any) -> None:
        # State of partial: (function, arguments, keywords, attributes).
        if not (isinstance(state, tuple) and len(state) == 4 and state[0] is _CHECK_ARRAY):
            raise UntrustedModelError("asks for functools.partial of another function; nothing of it has run")
        if state[1] != () or state[2] != _CHECKED or state[3]:
            raise UntrustedModelError(f"asks for functools.partial with other arguments than {_CHECKED}")

    def __call__(self, rows: Any) -> Any:
        """The rows as float64; NaN stays."""
        from sklearn.utils import check_array

        return check_array(rows, **_CHECKED)


class _Unused:
    """Stand-in for a distribution that a search drew from: its own class runs text that the file gives it."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Keep nothing."""

    def __setstate__(self, _: Any) -> None:
        """Keep nothing."""


class _Score:
    """Stand-in for a function of scikit-learn that scores in training: it can be named and asked for its signature."""

    def __init__(self, function: Any, asked: str) -> None:
        self.__name__, self._asked = function.__name__, asked
        self.__signature__ = inspect.signature(function)

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise UntrustedModelError(f"calls {self._asked}, which a model only holds; nothing of it has run")


def _score(module: str, name: str) -> Any:
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return None  # the guard says what is missing
    # A class of such a name is not a score: None hands it to the guard, which refuses it.
    return _Score(function, f"{module}.{name}") if inspect.isfunction(function) else None


def _as_array(values: Any) -> Any:
    """Numpy's function as splines call it, on arrays alone: an object of the file could say where in memory it lies."""
    # By type and not isinstance: a subclass may define how it becomes an array.
    if type(values) is not np.ndarray:
        raise UntrustedModelError(f"asks for an array of {type(values).__name__}; nothing of it has run")
    return values


def _method_of_zones(*asked: Any) -> Any:
    """``getattr`` as pickled time zones call it."""
    if len(asked) != 2 or asked[0] is not _ZONE_INFO or asked[1] != "_unpickle":
        raise UntrustedModelError("asks for builtins.getattr of no time zone; nothing of it has run")
    return zone


def shown(value: Any) -> str:
    """What a file holds where it should not, for a message: a text as it is, of others the kind.

    Nothing else is asked of it: lists that hold the next one twice each are written out without end.
    """
    return repr(value[:80]) if type(value) is str else f"a {type(value).__name__}"


def zone(key: Any, *_: Any) -> Any:
    """The time zone of that name; nothing else of a file's path is read."""
    import zoneinfo

    # A key is a path below the folder of time zones; only the known ones are opened.
    if not isinstance(key, str) or key not in zoneinfo.available_timezones():
        raise UntrustedModelError(f"asks for the time zone {shown(key)}, which is not known here")
    return zoneinfo.ZoneInfo(key)
