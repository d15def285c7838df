"""What a cell of a raw row means, by the column's description in the manifest."""

import math
import sys
from dataclasses import replace

import numpy as np
import pytest

from edgewright_runtime import wire
from edgewright_runtime.bundle.preprocessing import Column, Preprocessing, Words
from edgewright_runtime.errors import InputRejectedError, IntegrityError
from edgewright_runtime.predict.cells import ColumnReader, table_features
from edgewright_runtime.strict_json import canonical_json, parse_object

WORDS = Words("word", lowercase=True, strip_accents="", pattern=r"\w+", ngrams=(1, 1))
NUMBER = Column("size", "number", optional=True)
TRUTH = Column("new", "number", (("False", 0), ("True", 1)))
COLOUR = Column("colour", "category", (("red", 0), ("blue", 1), ("1", 2)), optional=True, unknown=7, missing=3)
TEXT = Column("said", "text", (("good", 0), ("bad", 1)), words=WORDS)
TABLE = Preprocessing(columns=(NUMBER, COLOUR, TEXT), missing=("", "NA"))


def read(column, value, missing=("", "NA")):
    return ColumnReader(column, missing).features(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, 3), ("3.5", 3.5), (" 4 ", 4), (True, 1), (np.float32(2), 2), (None, None), (float("nan"), None),
     ("", None), ("NA", None), ("  ", None)],
)  # fmt: skip
def test_numbers(value, expected):
    found = read(NUMBER, value)
    assert math.isnan(found) if expected is None else found == expected


@pytest.mark.parametrize(
    "value",
    ["many", "1_000", "NaN", "NAN", "\uff11", "\u00a01", "0x10", "1,000", [1], "1e400", "infinity", math.inf, {}],
)
def test_what_is_no_number_is_refused(value):
    with pytest.raises(InputRejectedError, match=r"column 'size' (needs a number|must be finite)"):
        read(NUMBER, value)


@pytest.mark.parametrize(("value", "expected"), [("True", 1), ("False", 0), (True, 1), (False, 0), (0, 0), ("1", 1)])
def test_texts_of_truth_are_numbers(value, expected):
    assert read(TRUTH, value) == expected


@pytest.mark.parametrize(
    ("value", "code"),
    [("red", 0), ("blue", 1), (1, 2), (1.0, 2), (np.int64(1), 2), ("green", 7), (True, 7), (" ", 7),
     (None, 3), ("NA", 3), ("", 3)],
)  # fmt: skip
def test_categories(value, code):
    assert read(COLOUR, value) == code


def test_a_text_that_the_vocabulary_holds_is_never_missing():
    kept = replace(COLOUR, vocabulary=(("", 0), ("NA", 1)))
    assert [read(kept, v) for v in ("", "NA", None)] == [0, 1, 3]


def test_texts_that_mean_missing_in_one_column_only():
    assert read(replace(COLOUR, missing_texts=("?",)), "?") == 3
    assert read(COLOUR, "?") == 7


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        (replace(COLOUR, optional=False), None, "column 'colour' is empty"),
        (replace(COLOUR, known_only=True), "green", "holds 'green', which the model was not trained on"),
        (replace(NUMBER, optional=False), "NA", "column 'size' is empty; a number is needed"),
        (TEXT, None, "column 'said' is empty"),
        (TEXT, 5, "column 'said' needs a text, found 5"),
    ],
)
def test_what_the_model_refuses_the_device_refuses(column, value, words):
    with pytest.raises(InputRejectedError, match=words):
        read(column, value)


def test_rows_become_features_in_the_order_of_the_columns():
    rows = [{"size": 1.5, "colour": "blue", "said": "good bad good", "more": 0}, {"said": "nothing"}]
    got = table_features(rows, TABLE)
    assert got.shape == (2, TABLE.width) == (2, 4)
    np.testing.assert_array_equal(got, np.array([[1.5, 1, 2, 1], [np.nan, 3, 0, 0]], np.float32))


def test_a_column_that_must_be_there_is_named():
    with pytest.raises(InputRejectedError, match="row 1: column 'said' is missing; needed: size, colour, said"):
        table_features([{"said": "x"}, {"size": 1}], TABLE)


def parsed(changed=None, **column):
    from dataclasses import asdict

    content = asdict(TABLE)
    content.update(changed or {})
    content["columns"] = [dict(c) for c in content["columns"]]
    content["columns"][2].update(column)
    return wire.read(Preprocessing, parse_object(canonical_json(content), "manifest").rest(), "manifest")


def test_a_description_survives_its_json():
    assert parsed() == TABLE


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ({"words": None}, "needs to know how it is cut"),
        ({"kind": "category"}, "nothing else"),
        ({"vocabulary": [["good", 0], ["bad", 2]]}, "numbered from 0 without a gap"),
        ({"words": {**WORDS.__dict__, "pattern": "("}}, "is not a regular expression"),
        ({"words": {**WORDS.__dict__, "pattern": "(a)(b)"}}, "has 2 groups"),
        ({"words": {**WORDS.__dict__, "pattern": "a{4294967296}"}}, "is not a regular expression"),
        ({"words": {**WORDS.__dict__, "pattern": "(?:" * 2400 + ")" * 2400}}, "9,600 characters, at most 1,000"),
        ({"words": {**WORDS.__dict__, "pattern": r"(\w+)*!"}}, "may take a time without limit"),
        ({"optional": True}, "a text cannot be optional"),
        ({"words": {**WORDS.__dict__, "ngrams": [2, 1]}}, "a least and a greatest"),
        ({"words": {**WORDS.__dict__, "ngrams": [1]}}, "a least and a greatest"),
        ({"words": {**WORDS.__dict__, "analyzer": "own"}}, "one of word, char, char_wb"),
        ({"unknown": -2}, "'unknown' must be an integer"),
        ({"extra": 1}, "unknown keys"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(column, words):
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)  # a device's; coremltools has raised this process's
    try:
        with pytest.raises(IntegrityError, match=words):
            parsed(**column)
    finally:
        sys.setrecursionlimit(limit)
