"""The terms of a text, and how often each stands in it: as scikit-learn's CountVectorizer counts them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edgewright_runtime.bundle.preprocessing import Words

__all__ = ["counted", "terms"]

_SPACES = re.compile(r"\s\s+")


def counted(text: str, words: Words, vocabulary: Mapping[str, int]) -> np.ndarray:
    """(len(vocabulary),) float32: the number of times that each known term stands in the text, at most 1 if binary."""
    counts = np.zeros(len(vocabulary), np.float32)
    for term in terms(text, words):
        place = vocabulary.get(term)
        if place is not None:
            counts[place] += 1
    return np.minimum(counts, 1) if words.binary else counts


def terms(text: str, words: Words) -> Iterator[str]:
    """The terms of a text in their order, each as often as it stands there."""
    # In CountVectorizer's order: accents go after the letters are lowered.
    plain = _without_accents(text.lower() if words.lowercase else text, words.strip_accents)
    least, greatest = words.ngrams
    if words.analyzer == "word":
        stop = frozenset(words.stop_words)
        tokens = [token for token in re.findall(words.pattern, plain) if token not in stop]
        for length in range(least, greatest + 1):
            yield from (tokens if length == 1 else _joined(tokens, length))
        return
    spaced = _SPACES.sub(" ", plain)
    if words.analyzer == "char":
        for length in range(least, greatest + 1):
            yield from _pieces(spaced, length)
        return
    for word in spaced.split():
        yield from _within(f" {word} ", least, greatest)


def _joined(tokens: Sequence[str], length: int) -> Iterator[str]:
    return (" ".join(tokens[i : i + length]) for i in range(len(tokens) - length + 1))


def _pieces(text: str, length: int) -> Iterator[str]:
    return (text[i : i + length] for i in range(len(text) - length + 1))


def _within(word: str, least: int, greatest: int) -> Iterator[str]:
    """The pieces of one padded word; a word that is no longer than the length counts whole, and once."""
    for length in range(least, greatest + 1):
        if length >= len(word):
            yield word
            return
        yield from _pieces(word, length)


def _without_accents(text: str, how: str) -> str:
    if not how or text.isascii():
        return text
    apart = unicodedata.normalize("NFKD", text)
    if how == "ascii":
        return apart.encode("ascii", "ignore").decode()
    return "".join(c for c in apart if not unicodedata.combining(c))
