"""scikit-learn models, loaded through the guard: nothing outside its allow-list runs."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.export.readers.contents import Contents
from edgewright.export.readers.tally import Tally
from edgewright.intake.pickle_guard import load_model
from edgewright_runtime.bundle.manifest import TensorSpec

__all__ = ["read"]


def read(path: Path) -> Contents:
    """The estimators of a model, and the arrays that they learned."""
    model = load_model(path)
    tally = Tally()
    kinds: Counter[str] = Counter()
    _walk(model, tally, kinds)
    inputs = [TensorSpec(str(name), (-1,), "column") for name in getattr(model, "feature_names_in_", [])]
    return tally.result(inputs, [], dict(kinds), [" ".join(repr(model).split())])


def _walk(model: Any, tally: Tally, kinds: Counter[str]) -> None:
    """Every estimator and learned array of a model, each once."""
    # What it names is kept: a tree makes its arrays when it is asked, and the next would get the identity of one that
    # is gone.
    seen: dict[int, Any] = {}
    pending = [model]  # not by calling itself: models may hold each other thousands deep
    while pending:
        value = pending.pop()
        if id(value) not in seen:
            seen[id(value)] = value
            pending += reversed(_parts(value, tally, kinds))


def _parts(value: Any, tally: Tally, kinds: Counter[str]) -> list[Any]:
    """Count a value by itself; return what it holds."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        if value.dtype.names:  # a tree's node table
            for name in value.dtype.names:
                tally.add_array(value[name], is_weight=value.dtype[name].kind == "f")
        elif value.dtype.kind in "biuf":
            tally.add_array(value, is_weight=value.dtype.kind == "f")
    elif isinstance(value, (list, tuple, set, np.ndarray)):
        return list(np.ravel(value) if isinstance(value, np.ndarray) else value)
    elif isinstance(value, dict):
        return list(value.values())
    elif type(value).__module__.startswith("sklearn."):
        kinds[type(value).__name__] += 1
        # A compiled class, as a tree, has no `__dict__`: its arrays are in what it would pickle.
        return [value.__getstate__() if hasattr(value, "__getstate__") else vars(value)]
    return []
