"""A context model of quantized weights for large tensors: thousands of decisions at a time, all in numpy.

A level is an integer, 0 the most frequent, coded as binary decisions as in `context_model`: is it non-zero, its
magnitude class (bit length), the bits below the leading one; signs are as good as uniform and travel as they are. The
probability of a decision adds up, in the logistic domain, from counts of its row, its column and the columns beside.
A slab of rows is cut into units that each hold the same share of every row and every column; counts are brought up
to date between units. Integer arithmetic throughout, so that no platform's rounding can make decoders disagree.

The same function codes and decodes; only the coder that it is given differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgewright_runtime.codec.context_model import probability_tables
from edgewright_runtime.codec.lanes import MAX_LANES_LOG2, STATE_BYTES, LaneDecoder
from edgewright_runtime.errors import IntegrityError

__all__ = [
    "LEVELS_PER_LANE",
    "MAX_CLASSES",
    "MAX_COLUMNS",
    "WideCoder",
    "WideShape",
    "code_magnitudes",
    "decode_levels",
]

# Levels up to 511, and rows that fit a slab: what the model's counts may take is bounded by these.
MAX_CLASSES = 9
MAX_COLUMNS = 1 << 20
# One step of all lanes takes some ten microseconds: this bounds the time of a stream that was made to be slow.
LEVELS_PER_LANE = 1 << 16
_ONE = 1 << 16
_UNITS = 256
_UNIT_STEP = 37  # the diagonal's: how many units a row is ahead of the one before it
_MAGNITUDE_UNITS = 16
_SLAB_LEVELS = 1 << 20
_TREE_BITS = 3  # mantissa bits with a context for each prefix; those below are as good as uniform
# Strength of the prior (the tensor-wide probability), in counts.
_PRIOR_ROW, _PRIOR_COLUMN, _PRIOR_BESIDE = 8, 3, 3


class WideCoder(Protocol):
    """Take the probabilities of 1 (out of 2^16) and return the bits: those given (encoder) or those read."""

    def bits(self, probabilities: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
        """(M,) int64 probabilities in 1..65535 to (M,) bool bits."""


@dataclass(frozen=True)
class WideShape:
    """A tensor's layout: ``group`` is the length of a repeating block along the columns (1 for none), ``classes`` the
    bit length of the largest level, ``weights`` what the evidence of row, column and columns beside counts, in
    sixteenths."""

    rows: int
    columns: int
    group: int
    classes: int
    weights: tuple[int, int, int]


def decode_levels(data: bytes, shape: WideShape) -> np.ndarray:
    """The (rows, columns) int32 levels of a coded stream.

    The stream: binary logarithm of the number of lanes (1 byte), bytes of words (4, little-endian), the lanes' states,
    the words, and the signs that the states have no room for, eight a byte.

    Raises:
        IntegrityError: it is cut off, goes on after its end, or its layout is none that an encoder makes.
    """
    # No encoder lays out a single row: it teaches the model nothing, and its columns' counts would take most memory.
    if shape.rows < 2 or not (0 < shape.classes <= MAX_CLASSES and 0 < shape.group <= shape.columns <= MAX_COLUMNS):
        raise IntegrityError("a tensor in lanes has an impossible layout")
    if not data or data[0] > MAX_LANES_LOG2:
        raise IntegrityError("a tensor in lanes has an impossible number of them")
    # An encoder always has that many lanes; see LEVELS_PER_LANE.
    if shape.rows * shape.columns > LEVELS_PER_LANE << data[0]:
        raise IntegrityError("a tensor in lanes has too few of them")
    words_bytes = int.from_bytes(data[1:5], "little")
    if len(data) < 5 or 5 + (STATE_BYTES << data[0]) + words_bytes > len(data):
        raise IntegrityError("a tensor in lanes is broken off")
    words_at = 5 + (STATE_BYTES << data[0])
    decoder = LaneDecoder(data[5:words_at], data[words_at : words_at + words_bytes])
    levels = code_magnitudes(decoder, shape)
    held = decoder.finish()
    flat = levels.reshape(-1)
    signed = np.flatnonzero(flat)
    rest = data[words_at + words_bytes :]
    missing = max(0, len(signed) - len(held))
    if len(rest) != -(-missing // 8):
        raise IntegrityError("a tensor in lanes does not end where its signs end")
    # The lanes' first states carry as many signs as they have room for; only the others take bytes.
    negative = np.concatenate([held, np.unpackbits(np.frombuffer(rest, np.uint8)).astype(bool)])[: len(signed)]
    flat[signed[negative]] *= -1
    return levels


def code_magnitudes(coder: WideCoder, shape: WideShape, magnitudes: np.ndarray | None = None) -> np.ndarray:
    """Code (``magnitudes`` given) or decode (rows, columns) int32 magnitudes; returns them either way.

    Memory: 4 bytes a level, and some 60 bytes for each level of a slab of a million.

    Raises:
        IntegrityError: the coder ran out of data.
    """
    out = np.zeros((shape.rows, shape.columns), dtype=np.int32)
    significance = _Plane(coder, shape)
    sizes = _Sizes(coder, shape)
    # Slabs bound the memory of a tensor of any size; columns' counts go on from slab to slab, rows' do not.
    slab_rows = max(1, _SLAB_LEVELS // shape.columns)
    for top in range(0, shape.rows, slab_rows):
        slab = out[top : top + slab_rows]
        known = None if magnitudes is None else magnitudes[top : top + slab_rows]
        units = _units(*slab.shape)
        significance.new_rows(len(slab))
        for row, column in units:
            bits = significance.code(row, column, None if known is None else known[row, column] > 0)
            slab[row, column] = bits
        row, column = np.nonzero(slab)
        slab[row, column] = sizes.code(row, column, len(slab), None if known is None else known[row, column])
    return out


def _units(rows: int, columns: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The rows and columns of each unit: along diagonals, so that each has the same share of every row and column."""
    unit = (np.arange(rows)[:, None] * _UNIT_STEP + np.arange(columns)[None, :]) % _UNITS
    # The order within a unit is part of the format, hence stable; of uint8 numpy sorts so in linear time.
    order = np.argsort(unit.astype(np.uint8).reshape(-1), kind="stable")
    ends = np.cumsum(np.bincount(unit.reshape(-1), minlength=_UNITS))
    return [np.divmod(part, columns) for part in np.split(order, ends[:-1]) if len(part)]


class _Plane:
    """The counts of one kind of decision, and what they say of the next."""

    def __init__(self, coder: WideCoder, shape: WideShape) -> None:
        self._coder = coder
        self._group = shape.group
        self._weights = shape.weights
        self._squash, self._stretch = probability_tables()
        # Ones and all decisions so far: of the tensor, of each row of the slab, of each column.
        self._total = np.zeros(2, dtype=np.int64)
        self._rows = np.zeros((2, 0), dtype=np.int64)
        self._columns = np.zeros((2, shape.columns), dtype=np.int64)

    def new_rows(self, rows: int) -> None:
        """A new slab begins: nothing is known of its rows."""
        self._rows = np.zeros((2, rows), dtype=np.int64)

    def code(self, row: np.ndarray, column: np.ndarray, known: np.ndarray | None) -> np.ndarray:
        """Code the decisions at (M,) rows and columns, then learn from them; (M,) bool."""
        ones, seen = (int(n) for n in self._total)
        prior = ((2 * ones + 1) << 15) // (seen + 1)
        base = int(self._stretch[prior])
        logit = base + (self._evidence(row, column, prior, base) >> 4)
        middle = len(self._squash) // 2
        # The table's middle is a logit of 0.
        bits = self._coder.bits(self._squash[np.clip(logit + middle, 0, 2 * middle)], known)
        # Learnt after the whole unit was coded: a decoder knows its bits no earlier.
        for counts, index in ((self._rows, row), (self._columns, column)):
            _count(counts[0], index[bits])
            _count(counts[1], index)
        self._total += np.array([np.count_nonzero(bits), len(bits)])
        return bits

    def _evidence(self, row: np.ndarray, column: np.ndarray, prior: int, base: int) -> np.ndarray:
        """What its row and its columns add to each decision's logit, in sixteenths of it."""

        def of(counts: np.ndarray, strength: int) -> np.ndarray:
            share = ((counts[0] << 16) + strength * prior) // (counts[1] + strength)
            evidence: np.ndarray = self._stretch[share] - base
            return evidence

        for_row, for_column, for_beside = self._weights

        def by_row(at: np.ndarray) -> np.ndarray:
            return np.asarray(for_row * of(self._rows[:, at], _PRIOR_ROW))

        def by_column(at: np.ndarray) -> np.ndarray:
            # A set: with a group of 1 both distances are the same columns, which count once.
            beside = np.sum([_beside(self._columns, at + by) for by in {1, -1, self._group, -self._group}], axis=0)
            alone = for_column * of(self._columns[:, at], _PRIOR_COLUMN)
            return np.asarray(alone + for_beside * of(beside, _PRIOR_BESIDE))

        of_rows = _each(by_row, row, self._rows.shape[1])
        return np.asarray(of_rows + _each(by_column, column, self._columns.shape[1]))


class _Sizes:
    """Magnitudes of what is not zero: the class in unary, then the bits below the leading one."""

    def __init__(self, coder: WideCoder, shape: WideShape) -> None:
        self._coder = coder
        self._classes = shape.classes
        self._longer = [_Plane(coder, shape) for _ in range(shape.classes - 1)]
        self._nodes = np.zeros((2, shape.classes + 1, 1 << _TREE_BITS), dtype=np.int64)

    def code(self, row: np.ndarray, column: np.ndarray, rows: int, known: np.ndarray | None) -> np.ndarray:
        """(M,) magnitudes at (M,) rows (of ``rows`` in the slab) and columns."""
        for plane in self._longer:
            plane.new_rows(rows)
        out = np.ones(len(row), dtype=np.int64)
        for start in range(_MAGNITUDE_UNITS):
            # Every sixteenth decision, not sixteen stretches: each part has a share of every row.
            part = slice(start, None, _MAGNITUDE_UNITS)
            out[part] = self._unit(row[part], column[part], None if known is None else known[part].astype(np.int64))
        return out

    def _unit(self, row: np.ndarray, column: np.ndarray, known: np.ndarray | None) -> np.ndarray:
        length = np.ones(len(row), dtype=np.int64)
        at = np.arange(len(row))
        for below, plane in enumerate(self._longer, start=1):
            longer = plane.code(row[at], column[at], None if known is None else known[at] >> below > 0)
            at = at[longer]
            if not len(at):
                break
            length[at] += 1
        magnitude = np.ones(len(row), dtype=np.int64)
        for step in range(1, self._classes):
            at = np.flatnonzero(length > step)
            if not len(at):
                break
            bits = None if known is None else (known[at] >> (length[at] - 1 - step)) & 1 == 1
            magnitude[at] = 2 * magnitude[at] + self._mantissa(step, length[at], magnitude[at], bits)
        return magnitude

    def _mantissa(self, step: int, length: np.ndarray, prefix: np.ndarray, known: np.ndarray | None) -> np.ndarray:
        if step > _TREE_BITS:
            return self._coder.bits(np.full(len(length), _ONE // 2, dtype=np.int64), known)
        ones, seen = self._nodes[:, length, prefix]
        share = ((2 * ones + 1) << 15) // (seen + 1)
        bits = self._coder.bits(np.clip(share, 64, _ONE - 64), known)
        # Many decisions of one part share a node: an assignment by index would count them once.
        np.add.at(self._nodes[1], (length, prefix), 1)
        np.add.at(self._nodes[0], (length[bits], prefix[bits]), 1)
        return bits


def _each(evidence: Callable[[np.ndarray], np.ndarray], index: np.ndarray, size: int) -> np.ndarray:
    """The evidence of each of (M,) indices into ``size`` rows or columns: never more work than there are decisions."""
    return evidence(np.arange(size))[index] if size <= len(index) else evidence(index)


def _count(counts: np.ndarray, index: np.ndarray) -> None:
    """Count one at each index, which may stand there more than once; see `_each` for the two ways."""
    if len(counts) <= len(index):
        counts += np.bincount(index, minlength=len(counts))
    else:
        np.add.at(counts, index, 1)


def _beside(columns: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(2, M) counts of the columns ``at``; beyond the edge there are none."""
    inside = (at >= 0) & (at < columns.shape[1])
    return np.where(inside, columns[:, np.where(inside, at, 0)], 0)
