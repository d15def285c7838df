"""UBJSON (https://ubjson.org, draft 12) as XGBoost writes it: a strict and bounded reader.

Read are objects, lists with and without a count, lists of one type, texts, integers, float32 and float64, true, false
and null. Sizes are written as ``L``. High-precision numbers, characters, no-ops and objects with a count are refused:
XGBoost does not write them.
"""

import struct
from typing import Any

import numpy as np

__all__ = ["read_ubjson"]

_TEXT, _OBJECT, _END_OF_OBJECT, _LIST, _END_OF_LIST, _OF_ONE_TYPE, _WITH_COUNT = b"S{}[]$#"
_SIZE = struct.Struct(">cq")
_MAX_DEPTH = 32  # XGBoost's own go 9 deep
_NUMBERS = {
    ord(mark): struct.Struct(f">{code}")
    for mark, code in {"i": "b", "U": "B", "I": "h", "l": "i", "L": "q", "d": "f", "D": "d"}.items()
}
_DTYPES = {mark: np.dtype(number.format) for mark, number in _NUMBERS.items()}
_CONSTANTS = {ord("T"): True, ord("F"): False, ord("Z"): None}


def read_ubjson(content: bytes | bytearray) -> Any:
    """The value; a list of one type is an array over ``content``, big-endian.

    Raises:
        ValueError: not such UBJSON, cut short, nested too deep, a key twice, or bytes after its end.
    """
    reader = _Reader(content)
    try:
        value = reader.value(_MAX_DEPTH)
    except (IndexError, struct.error) as e:  # asked for once here, not at every byte: models have many small parts
        raise ValueError("cut short") from e
    if reader.at != len(content):
        raise ValueError(f"{len(content) - reader.at} bytes after its end")
    return value


class _Reader:
    def __init__(self, content: bytes | bytearray) -> None:
        self.content, self.at = content, 0

    def value(self, depth: int) -> Any:
        """What begins here; ``depth`` is how many lists and objects deep it may go."""
        mark = self.content[self.at]
        self.at += 1
        if mark == _TEXT:
            return self._text()
        if mark in _NUMBERS:
            return self._number(_NUMBERS[mark])
        if mark in _CONSTANTS:
            return _CONSTANTS[mark]
        if mark not in {_OBJECT, _LIST}:
            raise ValueError(f"no value begins with the byte {mark}, at {self.at - 1}")
        if not depth:
            raise ValueError(f"nested more than {_MAX_DEPTH} deep")
        return self._object(depth - 1) if mark == _OBJECT else self._list(depth - 1)

    def _number(self, number: struct.Struct) -> int | float:
        value: int | float = number.unpack_from(self.content, self.at)[0]
        self.at += number.size
        return value

    def _size(self, bytes_each: int) -> int:
        """The size that comes next; more than there can be is refused before any memory is taken for it."""
        mark, size = _SIZE.unpack_from(self.content, self.at)
        self.at += _SIZE.size
        if mark != b"L":
            raise ValueError(f"no size at {self.at - _SIZE.size}")
        if not 0 <= size * bytes_each <= len(self.content) - self.at:
            raise ValueError(f"a size of {size}, where {len(self.content) - self.at} bytes are left")
        return int(size)

    def _text(self) -> str:
        size = self._size(1)
        self.at += size
        return self.content[self.at - size : self.at].decode()

    def _object(self, depth: int) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        while self.content[self.at] != _END_OF_OBJECT:
            key = self._text()
            if key in fields:  # of which the library takes the first
                raise ValueError(f"the key {key[:40]!r} twice")
            fields[key] = self.value(depth)
        self.at += 1
        return fields

    def _list(self, depth: int) -> Any:
        mark = self.content[self.at]
        if mark == _OF_ONE_TYPE:
            dtype = _DTYPES.get(self.content[self.at + 1])
            if dtype is None or self.content[self.at + 2] != _WITH_COUNT:
                raise ValueError(f"a list of no known type at {self.at}")
            self.at += 3
            count = self._size(dtype.itemsize)
            self.at += count * dtype.itemsize
            return np.frombuffer(self.content, dtype, count, self.at - count * dtype.itemsize)
        if mark == _WITH_COUNT:
            self.at += 1
            return [self.value(depth) for _ in range(self._size(1))]
        values = []
        while self.content[self.at] != _END_OF_LIST:
            values.append(self.value(depth))
        self.at += 1
        return values
