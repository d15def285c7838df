"""XGBoost models for the guards' tests and fuzzing: their document, changed by structure and written as UBJSON anew."""

import copy
import pickle
import random
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["changed", "pickled", "ubjson"]

_NUMBERS = (0, 1, 2, -1, -5, 7, 255, 10**6, 10**8, 2**31 - 1, -(2**31))
_TEXTS = ("0", "1", "-1", "3", "64", "100000", "2147483647", "4294967296", "1e3", "nan", "", "[5E-1]", "gblinear",
          "dart", "multi:softmax", "binary:logistic", "reg:squarederror", "cpu")  # fmt: skip
_VALUES = (None, True, False, 0, -1, 2**40, 0.5, "", [], {}, [0], np.arange(3, dtype=">i4"), np.zeros(2, ">f4"))
_MARKS = {"i1": "i", "u1": "U", "i2": "I", "i4": "l", "i8": "L", "f4": "d", "f8": "D"}


def ubjson(value: Any) -> bytes:
    """The value as XGBoost writes it, but for integers, which are all of 64 bits."""
    match value:
        case dict():
            return b"{" + b"".join(_sized(key.encode()) + ubjson(part) for key, part in value.items()) + b"}"
        case list():
            return b"[#" + _size(len(value)) + b"".join(map(ubjson, value))
        case np.ndarray():
            mark = _MARKS[value.dtype.str[1:]].encode()
            return b"[$" + mark + b"#" + _size(len(value)) + value.astype(value.dtype.newbyteorder(">")).tobytes()
        case str():
            return b"S" + _sized(value.encode())
        case bool() | None:
            return {True: b"T", False: b"F", None: b"Z"}[value]
        case int():
            return _size(value)
    return b"d" + struct.pack(">f", value)


def _size(number: int) -> bytes:
    return b"L" + struct.pack(">q", number)


def _sized(text: bytes) -> bytes:
    return _size(len(text)) + text


def pickled(handle: Any) -> bytes:
    """A booster of that handle, as protocol 5 writes it."""
    state = pickle.dumps({"handle": handle}, 5)
    return b"\x80\x05cxgboost.core\nBooster\n)\x81" + state[2:-1] + b"b."


def changed(document: Any, chance: random.Random) -> Any:
    """A copy of a document, of which one to three parts are others."""
    document = copy.deepcopy(document)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        holder, key = chance.choice(list(_places(document)))
        _change(holder, key, chance)
    return document


def _places(holder: Any) -> Iterator[tuple[Any, Any]]:
    for key in holder if isinstance(holder, dict) else range(len(holder)):
        yield holder, key
        if isinstance(holder[key], (dict, list)):
            yield from _places(holder[key])


def _change(holder: Any, key: Any, chance: random.Random) -> None:
    value = holder[key]
    match chance.randrange(10):
        case 0:
            del holder[key]
        case 1:
            holder[key] = copy.deepcopy(chance.choice(_VALUES))
        case 2:
            other, place = chance.choice(list(_places(holder)))
            holder[key] = copy.deepcopy(other[place])
        case _ if isinstance(value, np.ndarray):
            holder[key] = _changed_array(value, chance)
        case _ if isinstance(value, str):
            holder[key] = chance.choice(_TEXTS)
        case _ if isinstance(value, list) and value:
            value.insert(chance.randrange(len(value)), copy.deepcopy(chance.choice(value)))
        case _ if isinstance(value, (int, float)):
            holder[key] = chance.choice(_NUMBERS)


def _changed_array(values: Any, chance: random.Random) -> Any:
    if not len(values) or chance.random() < 0.1:
        return np.append(values, values[:1] if len(values) else 1).astype(values.dtype)
    if chance.random() < 0.1:
        return values[:-1]
    number = chance.choice([*_NUMBERS, chance.randrange(len(values)), int(np.nan_to_num(chance.choice(values)))])
    if values.dtype.kind in "iu":  # what fits its type
        limits = np.iinfo(values.dtype)
        number = min(max(number, int(limits.min)), int(limits.max))
    values = values.copy()
    values[chance.randrange(len(values))] = number
    return values
