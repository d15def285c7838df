"""Boosters of XGBoost and LightGBM in a model file, before they are handed to the libraries' own parsers.

Those are reached by one way alone: ``__setstate__`` with a state that was looked at. Constructors, which can be given
a model or the path of one, are not called.
"""

from pathlib import Path
from typing import Any

from edgewright.errors import InputError, UntrustedModelError
from edgewright.failures import one_line
from edgewright.intake.booster_text import inspect_lightgbm
from edgewright.intake.xgboost_model import inspect_xgboost

__all__ = ["inspect_booster", "is_booster", "refuse_arguments"]

_LIBRARIES = {"xgboost.core": "XGBoost", "lightgbm.basic": "LightGBM"}


def is_booster(module: str, name: str) -> bool:
    """Whether a class of that name hands what it is given to a library's parser."""
    return name == "Booster" and module in _LIBRARIES


def refuse_arguments(thing: Any, path: Path) -> None:
    """Refuse to call the class of boosters; other things may be called.

    Raises:
        UntrustedModelError: it is that class.
    """
    if isinstance(thing, type) and is_booster(thing.__module__, thing.__name__):
        raise UntrustedModelError(
            f"{path}: makes a booster of {_LIBRARIES[thing.__module__]} by calling its class, not from its state; "
            "nothing of it has run; save the model anew"
        )


def inspect_booster(kind: type, state: Any, path: Path) -> None:
    """Look at the model in the state of a booster; pass on objects of other classes.

    Raises:
        InputError: no state of such a booster, or a model whose counts, nodes or features are not there.
    """
    if not is_booster(kind.__module__, kind.__name__):
        return
    library = _LIBRARIES[kind.__module__]
    if type(state) is not dict:
        raise InputError(f"{path}: damaged: a booster of {library} whose state is {type(state).__name__}, not a dict")
    try:
        if library == "XGBoost":
            _inspect_handle(state.get("handle"))
        else:
            _inspect_text(state.get("_handle"))
            _inspect_text(state.get("handle"))
    except ValueError as e:
        raise InputError(f"{path}: damaged: the model of {library} in it: {one_line(e, 200)}") from e


def _inspect_handle(handle: Any) -> None:
    if handle is None:
        return
    if type(handle) is not bytearray:
        raise ValueError(f"its handle is {type(handle).__name__}, not bytearray")
    inspect_xgboost(handle)


def _inspect_text(text: Any) -> None:
    if text is None:
        return
    if type(text) is not str:
        raise ValueError(f"its handle is {type(text).__name__}, not str")
    inspect_lightgbm(text)
