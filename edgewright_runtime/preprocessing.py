"""What the device does to a raw input before the model sees it, as the manifest says it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from edgewright_runtime.errors import IntegrityError
from edgewright_runtime.strict_json import Fields, text_item

__all__ = ["Column", "Preprocessing", "Words", "parse_preprocessing"]


@dataclass(frozen=True)
class Words:
    """How a text is cut into terms: that of scikit-learn's CountVectorizer, whose names these are.

    ``analyzer``: ``word``, ``char`` or ``char_wb``. ``strip_accents``: ``ascii``, ``unicode`` or empty for none.
    ``pattern`` is the regular expression of a token (``word`` only). ``ngrams``: the least and the greatest length.
    ``binary``: a term counts once, however often it stands in the text.
    """

    analyzer: str
    lowercase: bool
    strip_accents: str
    pattern: str
    ngrams: tuple[int, int]
    stop_words: tuple[str, ...] = ()
    binary: bool = False


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
    kind: str  # "number", "category" or "text"
    vocabulary: tuple[tuple[str, int], ...] = ()
    optional: bool = False
    known_only: bool = False
    unknown: int = -1
    missing: int = -1
    missing_texts: tuple[str, ...] = ()
    words: Words | None = None

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

    columns: tuple[Column, ...] = ()
    scale: float = 1.0
    mean: float = 0.0
    missing: tuple[str, ...] = ("",)

    @property
    def width(self) -> int:
        """How many features a table row becomes."""
        return sum(column.width for column in self.columns)


def parse_preprocessing(f: Fields) -> Preprocessing:
    """What a manifest says of its model's raw inputs.

    Raises:
        IntegrityError: an unknown or missing key, a wrong type or range.
    """
    found = Preprocessing(
        columns=f.items("columns", _column, 10_000),
        scale=f.number("scale"),
        mean=f.number("mean"),
        missing=f.items("missing", text_item, 1000),
    )
    f.done()
    return found


def _column(value: Any, where: str) -> Column:
    f = Fields(value, where)
    column = Column(
        name=f.text("name"),
        kind=f.text("kind", ("number", "category", "text")),
        vocabulary=f.items("vocabulary", _word),
        optional=f.flag("optional"),
        known_only=f.flag("known_only"),
        unknown=f.whole("unknown", -1),
        missing=f.whole("missing", -1),
        missing_texts=f.items("missing_texts", text_item, 1000),
        words=f.maybe("words", lambda key: _words(f.object(key))),
    )
    f.done()
    if (column.kind == "text") != (column.words is not None):
        raise IntegrityError(f"{where}: a text, and nothing else, needs to know how it is cut into terms")
    if column.kind == "text" and {code for _, code in column.vocabulary} != set(range(column.width)):
        raise IntegrityError(f"{where}: the terms of a text are numbered from 0 without a gap")
    return column


def _words(f: Fields) -> Words:
    words = Words(
        analyzer=f.text("analyzer", ("word", "char", "char_wb")),
        lowercase=f.flag("lowercase"),
        strip_accents=f.text("strip_accents", ("", "ascii", "unicode")),
        pattern=_expression(f.text("pattern")),
        ngrams=_lengths(f),
        stop_words=f.items("stop_words", text_item),
        binary=f.flag("binary"),
    )
    f.done()
    return words


def _lengths(f: Fields) -> tuple[int, int]:
    found = f.items("ngrams", _length, 2)
    if len(found) != 2 or found[0] > found[1]:
        raise IntegrityError(f"manifest: ngrams {list(found)}; a least and a greatest length are needed")
    return found[0], found[1]


def _length(value: Any, where: str) -> int:
    return Fields({"length": value}, where).whole("length", 1, 100)


def _expression(pattern: str) -> str:
    try:
        compiled = re.compile(pattern)
    except re.error as e:
        raise IntegrityError(f"manifest: the token pattern {pattern[:80]!r} is not a regular expression: {e}") from e
    if compiled.groups > 1:
        raise IntegrityError(f"manifest: the token pattern {pattern[:80]!r} has {compiled.groups} groups, at most one")
    return pattern


def _word(value: Any, where: str) -> tuple[str, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise IntegrityError(f"{where}: expected a pair of value and code")
    f = Fields({"value": value[0], "code": value[1]}, where)
    return f.text("value"), f.whole("code", -1)
