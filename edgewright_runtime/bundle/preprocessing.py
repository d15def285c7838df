"""What the device does to a raw input before the model sees it, as the manifest says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Optional

from edgewright_runtime.bundle.token_pattern import token_pattern
from edgewright_runtime.errors import IntegrityError
from edgewright_runtime.wire import rule

__all__ = ["Column", "Preprocessing", "Words"]


@dataclass(frozen=True)
class Words:
    """How a text is cut into terms: that of scikit-learn's CountVectorizer, whose names these are.

    ``analyzer``: ``word``, ``char`` or ``char_wb``. ``strip_accents``: ``ascii``, ``unicode`` or empty for none.
    ``pattern`` is the regular expression of a token (``word`` only). ``ngrams``: the least and the greatest length.
    ``binary``: a term counts once, however often it stands in the text.
    """

    analyzer: str = field(metadata=rule(allowed=("word", "char", "char_wb")))
    lowercase: bool
    strip_accents: str = field(metadata=rule(allowed=("", "ascii", "unicode")))
    pattern: str = field(metadata=rule(form=token_pattern))
    ngrams: tuple[int, int] = field(metadata=rule(items=rule(ge=1, le=100), holds="a least and a greatest length"))
    stop_words: tuple[str, ...] = ()
    binary: bool = False

    def check(self, what: str) -> None:
        """Raise `IntegrityError` where no term has an allowed length."""
        if self.ngrams[0] > self.ngrams[1]:
            raise IntegrityError(f"{what}: ngrams {list(self.ngrams)}; a least and a greatest length are needed")


@dataclass(frozen=True)
class Column:
    """One use of a column of the raw table row, in the order of the model's ``features`` input.

    ``number``: itself; the ``vocabulary`` holds texts that stand for one (``True`` for 1). Missing becomes NaN where
    ``optional``. ``category``: the code of its text; a value outside ``vocabulary`` becomes ``unknown``, as the source
    model treats it, or is refused where ``known_only``; missing becomes ``missing`` where ``optional``. ``text``: how
    often each term of the vocabulary stands in it, as ``words`` cuts it: as many features as there are terms.
    ``missing_texts`` mean "missing" in this column, besides those of the table.
    """

    name: str
    kind: str = field(metadata=rule(allowed=("number", "category", "text")))
    vocabulary: tuple[tuple[str, int], ...] = field(
        default=(), metadata=rule(items=rule(items=(rule(), rule(ge=-1)), holds="a value and a code"))
    )
    optional: bool = False
    known_only: bool = False
    unknown: int = field(default=-1, metadata=rule(ge=-1))
    missing: int = field(default=-1, metadata=rule(ge=-1))
    missing_texts: tuple[str, ...] = field(default=(), metadata=rule(max_length=1000))
    words: Optional[Words] = None

    def check(self, what: str) -> None:
        """Raise `IntegrityError` where kind, words and vocabulary contradict each other."""
        if (self.kind == "text") != (self.words is not None):
            raise IntegrityError(f"{what}: a text, and nothing else, needs to know how it is cut into terms")
        # No number of terms means "missing": it would have to stand in every one of its features.
        if self.kind == "text" and self.optional:
            raise IntegrityError(f"{what}: a text cannot be optional; an empty one has no terms")
        # Codes are places in the row of counts: a gap would be a feature that nothing fills.
        if self.kind == "text" and {code for _, code in self.vocabulary} != set(range(self.width)):
            raise IntegrityError(f"{what}: the terms of a text are numbered from 0 without a gap")

    @cached_property
    def codes(self) -> Mapping[str, int]:
        """The vocabulary, to look words up in."""
        return dict(self.vocabulary)

    @property
    def width(self) -> int:
        """How many features it becomes."""
        return len(self.vocabulary) if self.kind == "text" else 1


@dataclass(frozen=True)
class Preprocessing:
    """What is done to a raw input before the model sees it.

    Tables: ``columns`` encode a row to ``(N, features) float32``; ``missing`` are the texts that mean "missing" in
    every column, as the table was read when the model was taken in. Tensors: ``(raw - mean) * scale``, reshaped to the
    input's shape.
    """

    columns: tuple[Column, ...] = field(default=(), metadata=rule(max_length=10_000))
    scale: float = 1.0
    mean: float = 0.0
    missing: tuple[str, ...] = field(default=("",), metadata=rule(max_length=1000))

    @property
    def width(self) -> int:
        """How many features a table row becomes."""
        return sum(column.width for column in self.columns)
