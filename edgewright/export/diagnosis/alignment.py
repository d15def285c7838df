"""Which value of the reference each value of an exported file is.

Each operator of the file is computed from what the *reference* has at its inputs, so that an error does not travel:
what it then gives is either a value of the reference, within what its own dtype explains, or it is not. A value that
a fusion swallowed, or that another decomposition adds, is carried on as it is computed; what comes after it is found.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgewright.errors import ConversionError
from edgewright.export.diagnosis.computation import Computation, Operator, narrowest
from edgewright.export.diagnosis.layouts import Layout, arranged, layouts
from edgewright.export.diagnosis.reference import Reference
from edgewright.export.diagnosis.values import COPY, Difference, Limit, difference, limit_of, print_of
from edgewright.export.runs import Arrays

__all__ = ["Alignment", "Match"]

_DOUBTFUL_DB = 35.0  # int8 leaves 35 to 50 dB where a value is what it was taken for
_SAME_DB = 1.0
_SAMPLED_DB = 6.0  # the ratio of a sample may be that much below the whole's
_MAX_COMPARED = 12  # arrangements that pass on a sample are compared whole; more than these are copies of one another


@dataclass(frozen=True)
class Match:
    """An exported value is these values of the reference (one, and those that are equal to it), laid out so.

    ``own`` is how far it lies from them when its operators are given the reference's values.
    """

    names: tuple[str, ...]
    layout: Layout
    own: Difference


@dataclass
class Alignment:
    """What is known of each exported value; grows operator by operator.

    ``clean`` are the values in the file's own form, one for each row: the reference's where there is a match, else
    what the operators make of such. ``frontier`` are the values of the reference that an exported value rests on.
    ``doubtful`` are values as computed that were recognized only roughly.
    """

    reference: Reference
    computation: Computation
    rows: Sequence[Arrays]
    matches: dict[str, Match] = field(default_factory=dict)
    clean: dict[str, list[Any]] = field(default_factory=dict)
    frontier: dict[str, frozenset[tuple[str, ...]]] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    doubtful: dict[str, list[Any]] = field(default_factory=dict)

    def enter(self) -> None:
        """The model's inputs."""
        given = [self.computation.entered(row) for row in self.rows]
        for name in given[0]:
            self._learn(name, [row[name] for row in given], frozenset(), "float32")

    def advance(self, operators: Iterable[Operator]) -> None:
        """Compute these operators and find what they give."""
        for operator in operators:
            if any(name not in self.clean for name in operator.reads):
                continue  # behind one that does not run
            try:
                given = self.compute(operator, self.clean)
            except ConversionError as e:
                self.failures[operator.name] = str(e)
                continue
            self._learn_all(operator, given)
            self._reconsider(operator)

    def again(self, reference: Reference, start: Operator) -> "Alignment":
        """The same with another reference, which has all values of this one, from an operator on."""
        operators = self.computation.operators
        place = next(i for i, operator in enumerate(operators) if operator is start)
        # Before `start` nothing changes: the other reference only has more values, inside of its layers.
        behind = {name for operator in operators[place:] for name in operator.gives}
        state = ({k: v for k, v in part.items() if k not in behind} for part in (self.matches, self.clean))
        matches, clean = state
        frontier = {k: v for k, v in self.frontier.items() if k not in behind}
        dtypes = {k: v for k, v in self.dtypes.items() if k not in behind}
        alignment = Alignment(reference, self.computation, self.rows, matches, clean, frontier, dtypes)  # type: ignore[arg-type]
        alignment.advance(operators[place:])
        return alignment

    def _learn_all(self, operator: Operator, given: dict[str, list[Any]]) -> None:
        rests = frozenset().union(*(self.seen_from(name) for name in operator.reads))
        dtype = self.dtype_of(operator)
        for name, values in given.items():
            self._learn(name, values, rests, dtype)

    def _reconsider(self, operator: Operator) -> None:
        """A rounded value was taken for one of the reference's; where the operator behind it comes nearer to that one
        from the value as it was, it was only on the way there: a sum before its bias, say."""
        read = [name for name in operator.reads if name in self.doubtful and name in self.matches]
        if len(read) != 1 or len(operator.gives) != 1 or operator.moves:
            return
        name, result, match = read[0], operator.name, self.matches[read[0]]
        # `_learn_all` writes to all four, and the trial may fail.
        snapshot = {part: dict(getattr(self, part)) for part in ("matches", "clean", "frontier", "dtypes")}
        del self.matches[name]
        self.clean[name] = self.doubtful[name]
        self._learn_all(operator, self.compute(operator, self.clean))
        result_match = self.matches.get(result)
        if (
            result_match is None
            or result_match.names[0] not in match.names
            or result_match.own.snr_db <= match.own.snr_db
        ):
            # It came no nearer: the value is what it was taken for.
            for part, values in snapshot.items():
                setattr(self, part, values)

    def compute(self, operator: Operator, values: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """What an operator gives, for each row."""
        runs = [
            self.computation.computed(operator, {name: values[name][i] for name in operator.reads})
            for i in range(len(self.rows))
        ]
        return {name: [run[name] for run in runs] for name in operator.gives if name in runs[0]}

    def dtype_of(self, operator: Operator) -> str:
        """The narrowest dtype that took part since the reference's values: what its results may be off by."""
        read = [self.dtypes[name] for name in operator.reads if name not in self.matches and name in self.dtypes]
        held = [_dtype(self.clean[name][0]) for name in operator.reads if name in self.clean]
        # A value that is held in 8 bits was rounded, whatever dtype its operator computes in.
        rounded = ["int8" for name in operator.reads if name in self.computation.quantized]
        return narrowest([operator.dtype, *read, *held, *rounded])

    def seen_from(self, name: str) -> frozenset[tuple[str, ...]]:
        """The nearest matched values before, or at, an exported value."""
        return frozenset((self.matches[name].names,)) if name in self.matches else self.frontier.get(name, frozenset())

    def stack(self, name: str, values: Sequence[Any]) -> np.ndarray | None:
        """A value of all rows as numbers, (rows, ...); None where it has no one shape or is not made of numbers."""
        reals = [self.computation.real(name, value) for value in values]
        plain = [real for real in reals if real is not None]
        if len(plain) < len(reals) or any(real.shape != plain[0].shape for real in plain):
            return None
        return np.stack(plain)

    def _learn(self, name: str, values: list[Any], rests: frozenset[tuple[str, ...]], dtype: str) -> None:
        narrow = narrowest([dtype, _dtype(values[0]), *(["int8"] if name in self.computation.quantized else [])])
        self.clean[name], self.frontier[name], self.dtypes[name] = values, rests, narrow
        stack = self.stack(name, values)
        # Whole numbers and truth values equal others by chance.
        if stack is None or stack.dtype.kind != "f":
            return
        match = self.match(stack, rests, limit_of(narrow))
        if match is not None:
            if match.own.snr_db < _DOUBTFUL_DB:
                self.doubtful[name] = values
            self.settle(name, match)

    def settle(self, name: str, match: Match) -> None:
        """Take the reference's value for an exported one from here on."""
        self.matches[name] = match
        self.clean[name] = self.given(name, match.names[0], match.layout)

    def given(self, name: str, reference: str, layout: Layout) -> list[Any]:
        """The reference's value in the form that the file has it in."""
        like = self.clean[name][0]
        shape = tuple(self.computation.real(name, like).shape)  # type: ignore[union-attr]
        placed = arranged(self.reference.values[reference], layout, shape)
        return [self.computation.stored(name, row, like) for row in placed]

    def match(
        self,
        stack: np.ndarray,
        rests: frozenset[tuple[str, ...]],
        limit: Limit,
        among: Iterable[str] | None = None,
    ) -> Match | None:
        """The value of the reference that a stack is, of those that rest on what the stack rests on.

        A value elsewhere in the reference is taken where nothing is rounded and it is the only explanation.
        """
        figures, reference = print_of(stack), self.reference
        known = reference.by_size.get(stack.size, []) if among is None else among
        # Figures first, which cost little: arrangements are tried for the few that are left.
        near = [n for n in known if reference.prints[n].near(figures, limit)]
        after = [n for n in near if reference.follows_all(n, rests)]
        best_match = self._best(stack, after, limit)
        if best_match is None and among is None and _is_exact(limit):
            return self._best(stack, [n for n in near if n not in after], limit)
        return best_match

    def _best(self, stack: np.ndarray, names: Sequence[str], limit: Limit) -> Match | None:
        """The nearest, and those that are equal to it."""
        candidates: list[tuple[Difference, str, Layout]] = []
        for name in names:
            compared = self.arrangement(stack, name, limit)
            if compared is not None:
                candidates.append((compared[0], name, compared[1]))
            if len(candidates) >= _MAX_COMPARED:
                break
        if not candidates:
            return None
        highest = max(own.snr_db for own, _, _ in candidates)
        # A value that comes again later, but for rounding, is the earlier one.
        best = next(one for one in candidates if one[0].snr_db >= highest - _SAME_DB)
        value = self.reference.values[best[1]]
        # Those that are about as near; that they equal the best one is looked at by their own numbers.
        alike = [(own, name) for own, name, _ in candidates if own.largest <= max(4 * best[0].largest, COPY.largest)]
        equal = [name for _, name in alike if name == best[1] or self._is_copy(name, value, limit)]
        # The earliest of the equal ones stands for them; all have the same numbers in some arrangement.
        own = {name: (own, layout) for own, name, layout in candidates}
        return Match(tuple(equal), own[equal[0]][1], own[equal[0]][0])

    def _is_copy(self, name: str, value: np.ndarray, limit: Limit) -> bool:
        """Whether a value of the reference has the numbers of another of its values, in some arrangement."""
        return _is_exact(limit) or self.arrangement(value, name, Limit(largest=0.0)) is not None

    def arrangement(self, stack: np.ndarray, name: str, limit: Limit) -> tuple[Difference, Layout] | None:
        """How the value of that name lies in a stack, and how far they are apart; None beyond the limit."""
        value, peak = self.reference.values[name], self.reference.prints[name].peak
        # (rows, elements), in which a layout's samples are positions.
        one, other = value.reshape(len(value), -1), stack.reshape(len(stack), -1)
        best: tuple[Difference, Layout] | None = None
        for layout in layouts(value.shape[1:], stack.shape[1:]):
            if not _could_hold(limit, one[:, layout.origins], other[:, layout.places], peak):
                continue
            deviation = difference(arranged(value, layout, stack.shape[1:]), stack)
            if limit.holds(deviation) and (best is None or deviation.snr_db > best[0].snr_db):
                best = deviation, layout
        return best


def _is_exact(limit: Limit) -> bool:
    """Whether a value within the limit is recognized beyond doubt."""
    return limit.largest < 1e-3


def _could_hold(limit: Limit, one: np.ndarray, other: np.ndarray, peak: float) -> bool:
    """Whether samples of two arrays leave it open that the whole arrays are within the limit."""
    if limit.largest < np.inf:
        with np.errstate(invalid="ignore"):
            return bool((np.isclose(one, other, rtol=0, atol=limit.largest * peak * 1.001, equal_nan=True)).all())
    return difference(one, other).snr_db >= limit.snr_db - _SAMPLED_DB


def _dtype(value: Any) -> str:
    return str(getattr(value, "dtype", "")).removeprefix("torch.")
