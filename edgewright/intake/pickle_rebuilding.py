"""What a pickle rebuilds objects by, held to what it is for.

The libraries' own helpers call what they are given (``base.__new__``, a constructor of random bits), and what they are
given may be an object of the file with attributes of these names: each is replaced by one that takes classes alone.
numpy asks any object for ``__array_interface__``, which says where in memory its numbers lie: no state and no `Bunch`
has names of that kind.
"""

import copyreg
import functools
import importlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.errors import InputError, UntrustedModelError

__all__ = ["inspect_if_sparse", "rebuilding", "refuse_special_names"]

_NEW_OBJECT = re.compile(r"sklearn\.(?:neighbors\._(?:kd|ball)_tree|metrics\._dist_metrics)\.newObj")
_BUNCH = re.compile(r"sklearn\.utils\.(?:_bunch\.)?Bunch")
_SCORER = re.compile(r"sklearn\.metrics\._scorer\._(?:Passthrough|Curve|Multimetric)?Scorer")
_SPECIAL = re.compile(r"__(?!doc__)\w+__")  # distributions keep their description
_NAMED = {"__module__", "__name__", "__qualname__"}


def rebuilding(module: str, name: str) -> Any:
    """What a file gets for a name that rebuilds; None where it is none."""
    asked = f"{module}.{name}"
    match asked:
        case "copyreg._reconstructor":
            return _reconstructed
        case "numpy.random._pickle.__bit_generator_ctor":
            return _random_bits
        case "numpy.random._pickle.__randomstate_ctor" | "numpy.random._pickle.__generator_ctor":
            return _random_numbers(name)
        case "numpy.ma.core._mareconstruct":
            return _masked
    if _NEW_OBJECT.fullmatch(asked):
        return _new_object
    if _BUNCH.fullmatch(asked):
        return _bunch()
    return _silent(module, name) if _SCORER.fullmatch(asked) else None


def refuse_special_names(state: Any, path: Path) -> None:
    """Look at an object's state, a dictionary or that and one of slots: ``__this__`` is an attribute of no model, but
    for the texts by which functions say what they are called.

    Raises:
        UntrustedModelError: one of its names is of that kind.
    """
    # (attributes, those of slots) is how pickle writes the state of a class with slots.
    for names in state if isinstance(state, tuple) and len(state) == 2 else (state,):
        for name, value in names.items() if isinstance(names, dict) else ():
            if isinstance(name, str) and _SPECIAL.fullmatch(name) and not (name in _NAMED and type(value) is str):
                raise UntrustedModelError(f"{path}: sets {name[:80]} of an object; nothing of it has run")


def inspect_if_sparse(thing: Any, path: Path) -> None:
    """Look at a sparse matrix; pass on others. Compiled code walks its indices without looking.

    Raises:
        InputError: an index that leads outside.
    """
    kind = type(thing).__name__
    if kind not in {"csr_matrix", "csc_matrix", "csr_array", "csc_array", "coo_matrix", "coo_array"}:
        return
    try:
        # Coordinates have no row pointers, and a check of their own.
        if kind.startswith("coo"):
            thing._check()
        else:
            thing.check_format(full_check=True)
    except (ValueError, TypeError, AttributeError, IndexError) as e:
        raise InputError(f"{path}: damaged: a sparse matrix whose indices lead nowhere: {e}") from e


def _require_class(thing: Any, kinds: Iterable[type], asking: str) -> None:
    """Refuse what is not a class below one of these."""
    if not isinstance(thing, type) or not issubclass(thing, tuple(kinds)):
        what = thing.__name__ if isinstance(thing, type) else f"an object of {type(thing).__name__}"
        raise UntrustedModelError(
            f"asks for {asking} of {what}, which is not a class of that kind; nothing of it has run"
        )


def _reconstructed(kind: Any, base: Any, state: Any) -> Any:
    """``copyreg._reconstructor``, by which protocols 0 and 1 make an object."""
    _require_class(base, (object,), "copyreg._reconstructor")
    _require_class(kind, (base,), "copyreg._reconstructor")
    return copyreg._reconstructor(kind, base, state)  # type: ignore[attr-defined]


def _new_object(kind: Any) -> Any:
    _require_class(kind, (object,), "newObj")
    return kind.__new__(kind)


def _random_bits(kind: Any = "MT19937") -> Any:
    """What numpy calls ``__bit_generator_ctor``: generators of random bits, by name or by class."""
    if not isinstance(kind, str):
        _require_class(kind, (np.random.BitGenerator,), "a generator of random bits")
    # The names alone: getattr(np.random, kind) would reach any function of the module.
    elif kind not in {"MT19937", "PCG64"}:
        raise UntrustedModelError(f"asks for random bits by {kind[:80]!r}; allowed: MT19937, PCG64")
    return getattr(np.random, kind)() if isinstance(kind, str) else kind()


@functools.cache
def _random_numbers(name: str) -> Callable[..., Any]:
    """What numpy calls ``__randomstate_ctor`` or ``__generator_ctor``."""
    drawing: type[Any] = np.random.RandomState if "randomstate" in name else np.random.Generator

    def construct(bits: Any = "MT19937", maker: Any = _random_bits) -> Any:
        # By default numpy passes its own constructor; a file could name another callable.
        if maker is not _random_bits:
            raise UntrustedModelError("asks for random numbers of no generator of numpy; nothing of it has run")
        return drawing(bits if isinstance(bits, np.random.BitGenerator) else _random_bits(bits))

    return construct


def _masked(kind: Any, base: Any, shape: Any, dtype: Any) -> Any:
    _require_class(kind, (np.ma.MaskedArray,), "a masked array")
    _require_class(base, (np.ndarray,), "a masked array")
    rebuilt: Any = np.ma.core._mareconstruct  # type: ignore[attr-defined]
    return rebuilt(kind, base, shape, dtype)


@functools.cache
def _bunch() -> type[Any]:
    from sklearn.utils import Bunch

    class PlainBunch(Bunch):  # type: ignore[misc]
        """A `Bunch` that is asked for no special name: it answers for any that it holds."""

        def __getattr__(self, key: str) -> Any:
            if _SPECIAL.fullmatch(key):
                raise AttributeError(key)
            return super().__getattr__(key)

    return PlainBunch


@functools.cache
def _silent(module: str, name: str) -> Any:
    """A scorer of scikit-learn that is held and cannot be called: it asks any object for a method that the file names.

    None where the installed version has no such class; the guard then says so.
    """
    scorer = getattr(importlib.import_module(module), name, None)

    def refuse(*_: Any, **__: Any) -> Any:
        raise UntrustedModelError(f"calls {module}.{name}, which a model only holds; nothing of it has run")

    # A subclass, so that isinstance and reading its attributes go on as before.
    return scorer and type(name, (scorer,), {"__call__": refuse, "_score": refuse, "__module__": module})
