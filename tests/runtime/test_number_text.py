"""Which texts are numbers: what pandas' reader of tables says, for each."""

import io

import pandas as pd
import pytest

from edgewright_runtime.bundle.labels import is_label
from edgewright_runtime.bundle.number_text import number_in

TEXTS = [
    "1_0",
    "0_1",
    "\uff11",
    "\u0663",
    "\u00a01",
    "1\u2009",
    "0x10",
    "0b1",
    "1,000",
    "1d5",
    "--1",
    "1e",
    "e5",
    "1.5.2",
    "+ 5",
]
TEXTS += ["1 2", "\u22125", "NAN", "Nan", "+nan", "infinit", ".", "+", "5", "+5", "-0", "007", " 1 ", "\t1", "1\n"]
TEXTS += [".5", "5.", "1e5", "1E+5", "1e-400", "1e400", "-1e400", "inf", "-INF", "+infinity", "Infinity"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_a_number_where_pandas_reads_one(text: str) -> None:
    read = pd.read_csv(io.StringIO(f'a,b\n"{text}",1\n'))["a"].iloc[0]
    if isinstance(read, str):
        with pytest.raises(ValueError, match="is not a number"):
            number_in(text)
    else:
        assert number_in(text) == read


@pytest.mark.timeout(30)
def test_long_row_of_digits_is_read_once() -> None:
    """A pattern that may cut it in two anywhere would try each place: minutes, for these."""
    for text in ("1" * 200_000 + "x", "1" * 200_000 + ".x", "." + "1" * 200_000 + "e"):
        with pytest.raises(ValueError, match="is not a number"):
            number_in(text)


def test_labels_are_compared_as_such_numbers() -> None:
    assert is_label("10.0", "10")
    assert not is_label("1_0.0", "10")
