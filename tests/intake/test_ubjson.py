"""UBJSON of others: what XGBoost writes is read, and nothing else."""

import struct

import numpy as np
import pytest

from benchmarks.boosters import ubjson
from edgewright.intake.ubjson import read_ubjson

ONE = b"L" + struct.pack(">q", 1)


def test_values_of_every_kind_are_read():
    document = {"a": [1, -5, 2**40, 0.5, "text", True, False, None, {}], "b": {"c": []}}
    assert read_ubjson(ubjson(document)) == document
    assert read_ubjson(b"[i\xff" + b"U\xff" + b"I\x01\x00" + b"l\x00\x00\x00\x02]") == [-1, 255, 256, 2]


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "i4", "i8", "f4", "f8"])
def test_lists_of_one_type_are_arrays(dtype):
    values = np.array([0, 1, 100], dtype)
    np.testing.assert_array_equal(read_ubjson(ubjson(values)), values)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cut short"),
        (b"{", "cut short"),
        (b"[" * 40 + b"]" * 40, "deep"),
        (b"[#L" + struct.pack(">q", 1 << 60), "a size of"),
        (b"[#L" + struct.pack(">q", -1), "a size of -1"),
        (b"[$l#L" + struct.pack(">q", 1 << 62) + b"\0" * 8, "a size of"),
        (b"[$l#i\x01" + b"\0" * 12, "no size"),
        (b"[$S#" + ONE + b"\0" * 8, "no known type"),
        (b"SL" + struct.pack(">q", 1 << 40), "a size of"),
        (b"S" + ONE + b"\xff", "decode"),
        (b"{" + (ONE + b"aZ") * 2 + b"}", "twice"),
        (b"ZZ", "after its end"),
        (b"N", "no value"),
        (b"H" + ONE + b"1", "no value"),
        (b"C1", "no value"),
        (b"{#" + ONE + ONE + b"aZ", "no size"),
    ],
)
def test_anything_else_is_refused(content, said):
    with pytest.raises(ValueError, match=said):
        read_ubjson(content)


def test_every_truncation_is_refused():
    content = ubjson({"a": [1, 0.5, "text", np.arange(3)], "b": {"c": None}})
    for end in range(len(content)):
        with pytest.raises(ValueError, match=r"cut short|size"):
            read_ubjson(content[:end])
