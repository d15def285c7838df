"""The context model of quantized weights: how likely each binary decision of each level is.

A level is an integer, 0 the most frequent. It is coded as binary decisions ("planes"): is it non-zero, its sign,
its magnitude class (bit length), the bits below the leading one. The probability of each decision is mixed,
in the logistic domain, from counts kept for the whole tensor, the row, the column, the column's group and position
in it, and the neighbours that are known already (after Mahoney, "Adaptive weighing of context models", 2005; the
binarization follows the coder of ISO/IEC 15938-17). Integer arithmetic throughout: no platform's rounding can make
a decoder disagree with its encoder.

The same function codes and decodes; only the coder that it is given differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Context, Decimal
from functools import lru_cache
from typing import Protocol

import numpy as np

from edgewright_runtime.errors import IntegrityError

__all__ = ["MAX_CLASS", "BitCoder", "LevelShape", "code_levels", "count_of", "probability_tables"]

MAX_CLASS = 31
_ONE = 1 << 16
_LOGIT_UNIT = 256
# At a logit of 10 a probability is 2 out of 2^16: beyond it no step of 16 bits is left.
_LOGIT_LIMIT = 10 * _LOGIT_UNIT
_TREE_BITS = 3  # mantissa bits with a context for each prefix; those below have one for each position
_NEIGHBOURHOODS = 9
_UPDATED = 6  # keys whose counts learn; those after them are the columns and rows beside, which are only read
_COLUMNS_BESIDE = slice(6, 10)
_ROWS_BESIDE = slice(10, 13)
# Strength of the prior (the tensor-wide probability) in counts, and first mixing weight, for each key but the first.
_PRIOR = np.array([[12], [3], [2], [4], [1], [3], [3]], dtype=np.int64)
_FIRST_WEIGHT = np.array([20000, 24000, 7000, 12000, 12000, 8000, 10000], dtype=np.int64)
_LEARNING_SHIFT = 15
_WEIGHT_LIMIT = 3 << 16


class BitCoder(Protocol):
    """Take the probabilities of 1 (out of 2^16) and return the bits: those given (encoder) or those read."""

    def bits(self, probabilities: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
        """(M,) probabilities in 1..65535 to (M,) int64 bits."""


@dataclass(frozen=True)
class LevelShape:
    """How a tensor's levels are laid out for coding.

    ``group`` is the length of a repeating block along the columns (a kernel, an image row; 1 for none), ``row_group``
    the same along the rows, ``unit`` how many levels are coded before the counts are brought up to date, ``classes``
    the bit length of the largest level.
    """

    rows: int
    columns: int
    row_group: int
    group: int
    unit: int
    classes: int


def count_of(shape: LevelShape) -> int:
    """How many counters the model of such a tensor keeps (16 bytes each)."""
    return _planes(shape) * _keys(shape)


def _planes(shape: LevelShape) -> int:
    # Significance, sign, one for each class but the last, and the mantissa's trees.
    return 1 + shape.classes + shape.classes * (1 << _TREE_BITS)


def _keys(shape: LevelShape) -> int:
    return 1 + shape.rows + shape.columns + -(-shape.columns // shape.group) + shape.group + _NEIGHBOURHOODS


@lru_cache(maxsize=1)
def probability_tables() -> tuple[np.ndarray, np.ndarray]:
    """Logits (in 1/256, from -10 to 10) to probabilities out of 2^16, and (2^16 + 1,) probabilities back to logits."""
    # Decimal's exp is correctly rounded everywhere; the C library's is not.
    context = Context(prec=12)
    squash = []
    for logit in range(-_LOGIT_LIMIT, _LOGIT_LIMIT + 1):
        power = context.exp(context.divide(Decimal(-logit), Decimal(_LOGIT_UNIT)))
        squash.append(int(context.divide(Decimal(_ONE), context.add(Decimal(1), power))))
    # A bit of probability 0 cannot be coded at all.
    squashed = np.clip(np.array(squash, dtype=np.int64), 1, _ONE - 1)
    # A search in the same table, not a logarithm: the inverse is exact on every platform.
    stretched = np.searchsorted(squashed, np.arange(_ONE + 1)).astype(np.int64) - _LOGIT_LIMIT
    return squashed, np.clip(stretched, -_LOGIT_LIMIT, _LOGIT_LIMIT)


def code_levels(coder: BitCoder, shape: LevelShape, levels: np.ndarray | None = None) -> np.ndarray:
    """Code (``levels`` given) or decode a (rows, columns) int32 tensor; returns it either way.

    Memory: about 8 bytes a level, and 16 bytes times rows plus columns for each plane.

    Raises:
        IntegrityError: the coder ran out of data.
    """
    if not 0 < shape.classes <= MAX_CLASS:
        raise IntegrityError(f"level class {shape.classes} is outside 1..{MAX_CLASS}")
    known = None if levels is None else levels != 0
    # Rows and columns of zeros alone, as pruning leaves them, cost a flag each, and none of their levels is coded.
    rows = np.flatnonzero(_code_flags(coder, shape.rows, shape.row_group, None if known is None else known.any(1)))
    columns = np.flatnonzero(_code_flags(coder, shape.columns, shape.group, None if known is None else known.any(0)))
    coded = np.zeros((shape.rows, shape.columns), dtype=np.int32)
    model = _LevelModel(coder, shape)
    nothing = np.zeros(shape.columns, dtype=np.int32)
    previous = -1
    for row in rows.tolist():
        above = coded[previous] if previous >= 0 else nothing
        block = coded[row - shape.row_group] if 1 < shape.row_group <= row else None
        # The counts stand still within a unit: coder and decoder learn at the same places.
        for start in range(0, len(columns), shape.unit):
            unit = columns[start : start + shape.unit]
            coded[row, unit] = model.code_unit(
                row, unit, above, block, coded[row], None if levels is None else levels[row, unit]
            )
        previous = row
    return coded


def _code_flags(coder: BitCoder, count: int, group: int, known: np.ndarray | None) -> np.ndarray:
    """One flag a row or column (does it hold anything), each predicted by those one and one group before it."""
    # A group of zeros in front: the first flags have those before them, too.
    flags = [0] * (count + group)
    # One 1 in two to begin with, so no context starts out certain.
    ones, seen = [1] * 4, [2] * 4
    for at in range(group, count + group):
        context = flags[at - 1] + 2 * flags[at - group]
        # Never closer than 64 to either end: a flag that is always the same still costs only 0.0014 bits.
        probability = np.array([min(max(_ONE * ones[context] // seen[context], 64), _ONE - 64)])
        bit = coder.bits(probability, None if known is None else known[at - group : at - group + 1].astype(np.int64))
        flags[at] = int(bit[0])
        ones[context] += flags[at]
        seen[context] += 1
    return np.array(flags[group:], dtype=bool)


class _LevelModel:
    """Counts and mixing weights of every plane, and the walk from planes to levels."""

    def __init__(self, coder: BitCoder, shape: LevelShape) -> None:
        self._coder = coder
        self._shape = shape
        # Keys: tensor, row, column, group, position, known neighbours.
        sizes = [1, shape.rows, shape.columns, -(-shape.columns // shape.group), shape.group]
        base = np.concatenate([[0], np.cumsum(sizes)])
        self._stride = _keys(shape)
        # A key that means a neighbour reads the counters of columns (base[2]) or of rows (base[1]).
        self._base = np.concatenate([base, [base[2]] * 4, [base[1]] * 3])[:, None]
        planes = _planes(shape)
        # Zeros and ones of every plane, in one flat array of counters: at base + value + plane * stride.
        self._counts = np.zeros((2, planes * self._stride), dtype=np.int64)
        self._weights = np.tile(_FIRST_WEIGHT, (planes, 1))
        self._squash, self._stretch = probability_tables()

    def code_unit(
        self,
        row: int,
        columns: np.ndarray,
        above: np.ndarray,
        block: np.ndarray | None,
        current: np.ndarray,
        known: np.ndarray | None,
    ) -> np.ndarray:
        """(M,) levels of one unit: ``columns`` of ``row``, where ``current`` holds what is known of the row already.

        ``above`` is the last row coded before it, ``block`` the row one row group above, if there is one.
        """
        group = self._shape.group
        before = np.where(columns >= group, current[np.maximum(columns - group, 0)], 0)
        left = before if block is None else block[columns]
        up = above[columns]
        last = self._shape.columns - 1
        keys = np.zeros((_ROWS_BESIDE.stop, len(columns)), dtype=np.int64)
        keys[1] = row
        keys[2] = columns
        keys[3] = columns // group
        keys[4] = columns % group
        # Three sizes (0, 1, more) or three signs of two neighbours: nine contexts either way.
        size_key = np.minimum(np.abs(up), 2) * 3 + np.minimum(np.abs(left), 2)
        sign_key = (np.sign(up) + 1) * 3 + np.sign(left) + 1
        keys[5] = size_key
        # Clipped: at an edge a neighbour's key must not run into the next key's counters.
        keys[_COLUMNS_BESIDE] = np.clip(columns + np.array([[-1], [1], [-group], [group]]), 0, last)
        far = self._shape.row_group
        keys[_ROWS_BESIDE] = np.maximum(row - np.array([[1], [far], [max(far - 1, 1)]]), 0)
        keys += self._base
        magnitude_known = None if known is None else np.abs(known).astype(np.int64)
        significant = self._plane(0, keys, None if magnitude_known is None else (magnitude_known > 0))
        levels = np.zeros(len(columns), dtype=np.int64)
        at = np.flatnonzero(significant)
        if not len(at):
            return levels
        keys = keys[:, at]
        magnitude = self._magnitudes(keys, None if magnitude_known is None else magnitude_known[at])
        # The bases are added already, so the difference leads from the context of sizes to that of signs.
        keys[5] += (sign_key - size_key)[at]
        negative = self._plane(1, keys, None if known is None else known[at] < 0)
        levels[at] = np.where(negative, -magnitude, magnitude)
        return levels

    def _magnitudes(self, keys: np.ndarray, known: np.ndarray | None) -> np.ndarray:
        classes = np.ones(keys.shape[1], dtype=np.int64)
        lengths = None if known is None else _bit_lengths(known)
        at = np.arange(keys.shape[1])
        for length in range(1, self._shape.classes):
            longer = self._plane(1 + length, keys[:, at], None if lengths is None else lengths[at] > length)
            at = at[longer.astype(bool)]
            if not len(at):
                break
            classes[at] += 1
        magnitude = np.ones(keys.shape[1], dtype=np.int64)
        for step in range(1, self._shape.classes):
            at = np.flatnonzero(classes > step)
            if not len(at):
                break
            # Each length has a tree of its own, see `_mantissa`.
            for length in np.unique(classes[at]).tolist():
                same = at[classes[at] == length]
                bits = None if known is None else (known[same] >> (length - 1 - step)) & 1
                magnitude[same] = magnitude[same] * 2 + self._mantissa(
                    length, step, keys[:, same], magnitude[same], bits
                )
        return magnitude

    def _mantissa(
        self, length: int, step: int, keys: np.ndarray, prefix: np.ndarray, known: np.ndarray | None
    ) -> np.ndarray:
        """Bit ``step`` below the leading one of magnitudes that are ``length`` bits long."""
        classes = self._shape.classes
        if step > _TREE_BITS:
            # Below the third bit a magnitude is as good as uniform.
            half = np.full(keys.shape[1], _ONE // 2, dtype=np.int64)
            return self._coder.bits(half, known)
        bits = np.zeros(keys.shape[1], dtype=np.int64)
        for node in np.unique(prefix).tolist():
            same = np.flatnonzero(prefix == node)
            # After significance, sign and the classes: eight nodes for each length from 2 on. A node is the prefix with
            # its leading one, so 1 to 7.
            plane = 1 + classes + (length - 2) * (1 << _TREE_BITS) + node
            bits[same] = self._plane(plane, keys[:, same], None if known is None else known[same])
        return bits

    def _plane(self, plane: int, keys: np.ndarray, known: np.ndarray | None) -> np.ndarray:
        """Code one decision for each column of ``keys`` (K, M), then learn from it."""
        index = keys + plane * self._stride
        counts = self._counts[:, index]
        ones, total = counts[1], counts[0] + counts[1]
        # Columns beside count as one key, rows as another. In place: slot 6 takes the columns' sum, then slot 7,
        # which is in that sum already, the rows'.
        for count in (ones, total):
            count[_UPDATED] = count[_COLUMNS_BESIDE].sum(0)
            count[_UPDATED + 1] = count[_ROWS_BESIDE].sum(0)
        ones, total = ones[: _UPDATED + 2], total[: _UPDATED + 2]
        # (n1 + 1/2) / (n + 1), the estimator of Krichevsky and Trofimov, out of 2^16.
        prior = ((2 * ones[0] + 1) << 15) // (total[0] + 1)
        specific = ((ones[1:] << 16) + _PRIOR * prior) // (total[1:] + _PRIOR)
        base = self._stretch[prior]
        # Relative to the prior: a key that has counted nothing adds nothing.
        inputs = self._stretch[specific] - base
        weights = self._weights[plane]
        # Weights have 16 fractional bits.
        logit = base + ((weights @ inputs) >> 16)
        probability = self._squash[np.clip(logit, -_LOGIT_LIMIT, _LOGIT_LIMIT) + _LOGIT_LIMIT]
        bits = self._coder.bits(probability, None if known is None else known.astype(np.int64))
        # The step that lowers the cost of these bits: input times error, as in logistic regression.
        gradient = inputs @ ((bits << 16) - probability)
        np.clip(weights + (gradient >> _LEARNING_SHIFT), -_WEIGHT_LIMIT, _WEIGHT_LIMIT, out=weights)
        learnt = index[:_UPDATED]
        # Columns of one unit share keys: an assignment by index would count such a key once.
        np.add.at(self._counts, (np.broadcast_to(bits, learnt.shape), learnt), 1)
        return bits


def _bit_lengths(magnitudes: np.ndarray) -> np.ndarray:
    lengths = np.zeros(len(magnitudes), dtype=np.int64)
    rest = magnitudes.copy()
    while rest.any():
        lengths += rest > 0
        rest >>= 1
    return lengths
