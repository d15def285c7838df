"""The first operators that are wrong: found by putting the reference's value in the place of theirs.

Behind a wrong operator no value is one of the reference's. So a value is replaced by the reference's, and what follows
is computed from there: where the reference's values appear again, all from there on is right, and what was wrong lies
between the last values that both had and the one replaced.
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from edgewright.errors import ConversionError
from edgewright.export.diagnosis.alignment import Alignment, Match
from edgewright.export.diagnosis.computation import Operator
from edgewright.export.diagnosis.layouts import Layout, arranged, layouts
from edgewright.export.diagnosis.values import COPY, Difference, difference, limit_of

__all__ = ["Search", "Swap"]

_DEPTH = 14  # operators that are computed behind a replaced value before it is given up
_NEAREST = 16  # values of the reference that come next and have the size
_MAX_LAYOUTS = 6
_MAX_TRIALS = 2000
_MAX_SECONDS = 120.0  # of one search: a large network computes long behind each replaced value


@dataclass(frozen=True)
class Swap:
    """Replacing the exported ``value`` by the reference's ``name`` makes what follows right: ``proof`` is what then
    appears."""

    value: str
    name: str
    layout: Layout
    proof: str = ""


class Search:
    """Over one alignment that has gone through all operators."""

    def __init__(self, alignment: Alignment) -> None:
        self.alignment = alignment
        self.made_by = {name: operator for operator in alignment.computation.operators for name in operator.gives}
        self.readers = Counter(name for operator in alignment.computation.operators for name in operator.reads)
        self._order = {operator.name: i for i, operator in enumerate(alignment.computation.operators)}

    @cached_property
    def wrong_outputs(self) -> dict[str, list[str]]:
        """{exported value: the reference's outputs that it should be} where it is not, though computed from right
        values."""
        at = self.alignment
        expected_outputs: dict[str, list[str]] = {}
        for value, name in zip(at.computation.outputs, at.reference.outputs, strict=True):
            if not self._agrees(value, name):
                expected_outputs.setdefault(value, []).append(name)
        return expected_outputs

    def _agrees(self, value: str, name: str) -> bool:
        at = self.alignment
        match = at.matches.get(value)
        if match is not None and name in match.names:
            return True
        return value in at.clean and self.compared(value, at.clean[value], name) is not None

    def compared(self, value: str, held: list[Any], name: str) -> Difference | None:
        """How held values lie to the reference's of that name; None beyond the limit of their dtype."""
        at = self.alignment
        stack = at.stack(value, held)
        if stack is None or name not in at.reference.values:
            return None
        wanted, limit = at.reference.values[name], limit_of(at.dtypes[value])
        deviations = [
            difference(arranged(wanted, layout, stack.shape[1:]), stack)
            for layout in layouts(wanted.shape[1:], stack.shape[1:])
        ]
        return next((one for one in deviations if limit.holds(one)), None)

    @cached_property
    def astray(self) -> list[Operator]:
        """The operators on the way to a wrong output whose values are none of the reference's, in order."""
        return self._behind(list(self.wrong_outputs), ends=self.alignment.matches)

    def between(self, value: str) -> list[Operator]:
        """The operators from the last values that both have to this one, in order."""
        operator = self.made_by.get(value)
        return [] if operator is None else self._behind([value], ends=self.alignment.matches.keys() - {value})

    def _behind(self, values: list[str], ends: Any) -> list[Operator]:
        upstream: dict[str, Operator] = {}
        pending = list(values)
        while pending:
            name = pending.pop()
            operator = self.made_by.get(name)
            if operator is not None and name not in ends and operator.name not in upstream:
                upstream[operator.name] = operator
                pending += operator.reads
        return sorted(upstream.values(), key=lambda operator: self._order[operator.name])

    def makers(self, operators: list[Operator]) -> list[Operator]:
        """The operators that compute what these read from before them, what only moves a value left out."""
        own = {operator.name for operator in operators}
        upstream: dict[str, Operator] = {}
        pending = [name for operator in operators for name in operator.reads]
        while pending:
            maker = self.made_by.get(pending.pop())
            if maker is None or maker.name in own or maker.name in upstream:
                continue
            upstream[maker.name] = maker
            pending += maker.reads if maker.moves else ()
        return sorted(upstream.values(), key=lambda operator: self._order[operator.name])

    def layers_between(self, name: str) -> list[str]:
        """The reference's values from those that both have to this one, in order."""
        reference, known = self.alignment.reference, self.taken - {name}
        names: set[str] = set()
        pending = [name]
        while pending:
            one = pending.pop()
            if one not in names and one not in known and one in reference.place:
                names.add(one)
                pending += reference.node(one).reads
        return sorted(names, key=reference.place.__getitem__)

    @cached_property
    def taken(self) -> set[str]:
        """The reference's values that were found in the file."""
        return {name for match in self.alignment.matches.values() for name in match.names}

    def first(self) -> Swap | None:
        """The earliest value whose replacement makes what follows right; None where no replacement does."""
        values = [name for operator in self.astray for name in operator.gives if name in self.alignment.clean]
        values += [value for value in self.wrong_outputs if value in self.alignment.matches]
        # Made one by one as they are tried: there may be more than are ever looked at.
        trials = (swap for value in values for swap in self._replacements(value))
        began = time.monotonic()
        for swap, _ in zip(trials, range(_MAX_TRIALS), strict=False):
            if time.monotonic() - began > _MAX_SECONDS:
                return None
            proof = self._proof(swap)
            if proof:
                return replace(swap, proof=proof)
        return None

    def _replacements(self, value: str) -> Iterator[Swap]:
        """What a value could be: the reference's values that were not found and come next, the nearest first; the
        output that it should be; what it rests on, unchanged."""
        at = self.alignment
        stack = at.stack(value, at.clean[value])
        if stack is None:
            return
        rests = at.seen_from(value)
        sized = at.reference.by_size.get(stack.size, [])
        same = [names[0] for names in rests if value not in at.matches and names[0] in sized]
        new = [name for name in sized if name not in self.taken and at.reference.follows_all(name, rests)]
        for name in dict.fromkeys((*new[:_NEAREST], *self.wrong_outputs.get(value, ()), *same)):
            for layout in self.likely(stack, name):
                yield Swap(value, name, layout)

    def likely(self, stack: np.ndarray, name: str) -> list[Layout]:
        """The arrangements: those that the file has most often first, then those of the nearest likeness."""
        value = self.alignment.reference.values.get(name)
        candidates = layouts(value.shape[1:], stack.shape[1:]) if value is not None else ()
        if value is None or len(candidates) <= 1:
            return list(candidates)
        one, other = value.reshape(len(value), -1), stack.reshape(len(stack), -1)
        likeness = [_correlation(one[:, layout.origins], other[:, layout.places]) for layout in candidates]
        often = [self._usual[len(layout.split), layout.axes] for layout in candidates]
        order = sorted(range(len(candidates)), key=lambda i: (-often[i], -likeness[i]))
        return [candidates[i] for i in order[:_MAX_LAYOUTS]]

    @cached_property
    def _usual(self) -> Counter[tuple[int, tuple[int, ...]]]:
        return Counter((len(m.layout.split), m.layout.axes) for m in self.alignment.matches.values())

    def _proof(self, swap: Swap) -> str:
        """A value of the reference that appears behind the replaced one and was not there without it; empty: none."""
        # An output that is put right proves itself.
        if swap.name in self.wrong_outputs.get(swap.value, ()):
            return swap.name
        at = self.alignment
        values = {**at.clean, swap.value: at.given(swap.value, swap.name, swap.layout)}
        changed, depth = {swap.value}, 0
        for operator in self.astray:
            # Not behind the replaced value, or what would put the wrong one back.
            if not changed & set(operator.reads) or swap.value in operator.gives:
                continue
            try:
                given = at.compute(operator, values)
            except (ConversionError, KeyError):
                return ""
            values |= given
            changed |= set(given)
            names = [name for value, held in given.items() if (name := self._found(value, held, swap))]
            depth += 1
            if names or depth >= _DEPTH:
                return names[0] if names else ""
        return ""

    def _found(self, value: str, held: list[Any], swap: Swap) -> str:
        """The value of the reference, behind the one put in, that a value computed from it is; empty: none."""
        at = self.alignment
        stack = at.stack(value, held)
        if stack is None:
            return ""
        # Unknown so far, and not a copy of the one put in: what only moves it would prove nothing.
        copies = self.copies(swap.name)
        new = [n for n in at.reference.by_size.get(stack.size, []) if n not in self.taken and n not in copies]
        later = [n for n in new if at.reference.follows(n, [swap.name])]
        match = at.match(stack, frozenset(), limit_of(at.dtypes.get(value, "float32")), among=later)
        if match is not None:
            return match.names[0]
        outputs = self.wrong_outputs.get(value, ())
        return next((name for name in outputs if self.compared(value, held, name) is not None), "")

    def copies(self, name: str) -> set[str]:
        """The values of the reference that have the numbers of one of them."""
        reference = self.alignment.reference
        wanted = reference.prints.get(name)
        sized = reference.by_size.get(reference.values[name].size, []) if wanted is not None else []
        return {one for one in sized if wanted is not None and reference.prints[one].near(wanted, COPY)}

    def own(self, swap: Swap) -> Difference:
        """How far the value is from the one that belongs there, computed from right values."""
        at = self.alignment
        stack = at.stack(swap.value, at.clean[swap.value])
        if stack is None:
            return Difference(-np.inf, np.inf)
        return difference(arranged(at.reference.values[swap.name], swap.layout, stack.shape[1:]), stack)

    def accept(self, swap: Swap) -> "Search":
        """Go on from the reference's value, as if the operator had been right: the search behind it."""
        match = Match((swap.name,), swap.layout, self.own(swap))
        # Without what made the value, which would put the wrong one back.
        behind = [operator for operator in self.astray if swap.value not in operator.gives]
        self.alignment.settle(swap.value, match)
        self.alignment.advance(behind)
        return Search(self.alignment)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Of the finite numbers, its sign left out: a flipped sign is a likeness too."""
    finite = np.isfinite(one) & np.isfinite(other)
    a, b = one[finite].astype(np.float64), other[finite].astype(np.float64)
    if a.size < 2 or not a.std() or not b.std():
        return 0.0
    return float(abs(np.corrcoef(a, b)[0, 1]))
