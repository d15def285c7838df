"""Which texts are numbers in a table: those that `pandas.read_csv` takes for one.

Python's `float` takes more: ``1_0``, digits of other scripts, spaces of other kinds, and NaN in any spelling.
"""

from __future__ import annotations

import re

__all__ = ["number_in"]

_SPACES = " \t\n\r\v\f"
_NUMBER = re.compile(r"[+-]?((\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|inf(inity)?)", re.ASCII | re.IGNORECASE)


def number_in(text: str) -> float:
    """The number that a table's cell holds; infinite where it is too large for float64.

    Raises:
        ValueError: no number. A text that means a missing value is not one.
    """
    bare = text.strip(_SPACES)
    if _NUMBER.fullmatch(bare) is None:
        raise ValueError(f"{text!r} is not a number")
    return float(bare)
