"""Text to numbers: the device counts terms (`edgewright_runtime.predict.terms`), the graph weighs them as
TfidfTransformer does.
"""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from edgewright.errors import UnsupportedError
from edgewright.intake.accurate_nodes import Nodes
from edgewright_runtime.bundle.manifest import Words
from edgewright_runtime.bundle.token_pattern import token_pattern
from edgewright_runtime.errors import IntegrityError

__all__ = ["TermWeights", "is_vectorizer", "term_weights", "terms_of", "words_of"]

_MAX_TERMS = 50_000  # a manifest holds them, and is read whole


class TermWeights(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Counts of terms (N, terms) to their weights: 1 + log of the count, times idf, over the norm of the row."""

    def __init__(
        self, idf: Any = None, norm: str | None = None, sublinear_tf: bool = False, sparse_output: bool = True
    ) -> None:
        self.idf, self.norm, self.sublinear_tf, self.sparse_output = idf, norm, sublinear_tf, sparse_output

    def written(self, nodes: Nodes, counts: str) -> str:
        """Add the operators; the name of the weights."""
        weights = counts
        if self.sublinear_tf:
            one = nodes.constant(1.0)
            # The logarithm of what is not zero; a count that is gives zero by the factor.
            raised = nodes.call("Add", nodes.call("Log", nodes.call("Max", counts, one)), one)
            weights = nodes.call("Mul", raised, nodes.call("Sign", counts))
        if self.idf is not None:
            weights = nodes.call("Mul", weights, nodes.constant(np.asarray(self.idf)[None, :]))
        if self.norm is None:
            return weights
        axis = nodes.constant([1], np.int64)
        if self.norm == "l1":
            size = nodes.call("ReduceSum", nodes.call("Abs", weights), axis, keepdims=1)
        else:
            size = nodes.call("Sqrt", nodes.call("ReduceSum", nodes.call("Mul", weights, weights), axis, keepdims=1))
        # A text without a known term stays all zeros.
        empty = nodes.call("Cast", nodes.call("Equal", size, nodes.constant(0.0)), to=1)
        return nodes.call("Div", weights, nodes.call("Add", size, empty))


def is_vectorizer(step: Any) -> bool:
    """Whether a step turns texts into counts of terms."""
    return type(step).__name__ in {"CountVectorizer", "TfidfVectorizer", "HashingVectorizer"}


def term_weights(step: Any) -> TermWeights:
    """What a TfidfTransformer does, or the part of a vectorizer that follows the counting."""
    # A TfidfVectorizer holds its TfidfTransformer; a CountVectorizer holds none and weighs nothing.
    inner = getattr(step, "_tfidf", step)
    if not hasattr(inner, "use_idf"):
        return TermWeights()
    return TermWeights(inner.idf_ if inner.use_idf else None, inner.norm, bool(inner.sublinear_tf))


def words_of(step: Any) -> Words:
    """How a vectorizer cuts texts into terms.

    Raises:
        UnsupportedError: by a function of the user's own, or by hashing, which a device does not do.
    """
    name = type(step).__name__
    if name == "HashingVectorizer":
        raise UnsupportedError(
            "HashingVectorizer has no vocabulary that a device could look up; take a TfidfVectorizer"
        )
    for part in ("preprocessor", "tokenizer"):
        if getattr(step, part) is not None:
            raise UnsupportedError(f"{name} with a {part} of its own: a device has no Python function; leave it out")
    if callable(step.analyzer) or callable(step.strip_accents):
        raise UnsupportedError(f"{name} with a function as analyzer or strip_accents: take one of its names")
    pattern = step.token_pattern or ""
    if step.analyzer == "word":
        try:
            token_pattern(pattern)
        except IntegrityError as e:
            raise UnsupportedError(f"{name}: {str(e).removeprefix('manifest: ')}") from e
    if len(step.vocabulary_) > _MAX_TERMS:
        raise UnsupportedError(
            f"{name} with {len(step.vocabulary_):,} terms; a device takes {_MAX_TERMS:,}: set max_features or min_df"
        )
    return Words(
        analyzer=step.analyzer,
        lowercase=bool(step.lowercase),
        strip_accents=step.strip_accents or "",
        pattern=pattern,
        ngrams=(int(step.ngram_range[0]), int(step.ngram_range[1])),
        # scikit-learn looks at stop words only where it cuts into words.
        stop_words=tuple(sorted(step.get_stop_words() or ())) if step.analyzer == "word" else (),
        binary=bool(step.binary),
    )


def terms_of(step: Any) -> tuple[tuple[str, int], ...]:
    """A vectorizer's terms, each with its place among the counts."""
    return tuple(sorted((str(term), int(place)) for term, place in step.vocabulary_.items()))
