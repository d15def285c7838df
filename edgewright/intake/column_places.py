"""The columns of ColumnTransformers by their places, in the order in which the parts take them.

skl2onnx 1.20 hands a part all columns in their own order wherever it takes as many as there are, and knows neither
masks, open slices, nor numbers from the end. Here a ColumnTransformer becomes a union of chains, each of which picks
its columns first. Runs in a child process: imports scikit-learn.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgewright.intake.column_steps import Picked
from edgewright.intake.elementwise_steps import Elementwise

__all__ = ["as_unions", "places_kept", "places_of"]


def as_unions(step: Any) -> Any:
    """A fitted model or transformer over the same parts, whose ColumnTransformers are unions of picking chains."""
    from sklearn.pipeline import Pipeline

    if hasattr(step, "steps"):
        return Pipeline([(name, as_unions(inner)) for name, inner in step.steps])
    if hasattr(step, "transformers_"):
        parts = [
            (name, [Picked(places_of(chosen, step.n_features_in_)), *_applied(part)])
            for name, part, chosen in step.transformers_
            if not _is(part, "drop")
        ]
        # A part that takes no columns adds none.
        parts = [(name, chain) for name, chain in parts if chain[0].places]
        return _union([(name, _chain(chain)) for name, chain in parts], step.transformer_weights)
    if hasattr(step, "transformer_list"):
        parts = [(name, _applied(part)) for name, part in step.transformer_list if not _is(part, "drop")]
        # A part that passes everything on needs a step all the same: the identity.
        return _union(
            [(name, _chain(chain or [Elementwise("positive")])) for name, chain in parts], step.transformer_weights
        )
    return step


def places_of(chosen: Any, width: int) -> list[int]:
    """The places that a ColumnTransformer over ``width`` columns, none of them named, takes for one part."""
    if isinstance(chosen, slice):
        # A range settles open ends and places from the end as indexing does.
        return list(range(width)[chosen])
    picked = np.atleast_1d(np.asarray(chosen))
    if picked.dtype == bool:
        return [int(place) for place in np.flatnonzero(picked)]
    return [int(place) + width * int(place < 0) for place in picked]


def places_kept(step: Any) -> list[int] | None:
    """The places of the columns that a step hands on as they are; None where it does anything else."""
    if isinstance(step, Picked):
        return [int(place) for place in step.places]
    # Selectors of features, such as SelectKBest.
    return step.get_support(indices=True).tolist() if hasattr(step, "get_support") else None


def _is(part: Any, word: str) -> bool:
    return isinstance(part, str) and part == word


def _applied(part: Any) -> list[Any]:
    """The steps of a part; none where all passes through."""
    return [] if part is None or _is(part, "passthrough") else [as_unions(part)]


def _chain(steps: Sequence[Any]) -> Any:
    from sklearn.pipeline import Pipeline

    return steps[0] if len(steps) == 1 else Pipeline([(f"step{i}", step) for i, step in enumerate(steps)])


def _union(parts: Sequence[tuple[str, Any]], weights: Any) -> Any:
    from sklearn.pipeline import FeatureUnion

    # A weight counts for a single part, too.
    return parts[0][1] if len(parts) == 1 and not weights else FeatureUnion(parts, transformer_weights=weights)
