"""The file as it runs, from its own values, against the reference at each value that was found in it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgewright.errors import ConversionError
from edgewright.export.diagnosis.alignment import Alignment
from edgewright.export.diagnosis.computation import Operator
from edgewright.export.diagnosis.layouts import arranged, layouts
from edgewright.export.diagnosis.values import Difference, difference
from edgewright.export.diagnosis_report import LayerDifference, OutputDifference

__all__ = ["Amplified", "Run", "nearest", "output_noise"]

_LOST = Difference(-math.inf, math.inf)


@dataclass(frozen=True)
class Amplified:
    """An operator is right, and makes more of the error that comes to it: ``incoming_db`` of signal over error at its
    inputs, its own rounding among them, become ``outgoing_db``."""

    operator: Operator
    incoming_db: float
    outgoing_db: float

    @property
    def loss_db(self) -> float:
        """What is lost here."""
        return self.incoming_db - self.outgoing_db if self.outgoing_db < math.inf else 0.0


class Run:
    """One pass through all operators, from the file's own values; a value is dropped after its last use.

    ``values`` are what the file gives as its outputs, row by row.
    """

    def __init__(self, alignment: Alignment) -> None:
        self._at = alignment
        self._noted: dict[str, LayerDifference] = {}
        self._levels: dict[str, float] = {}
        self._amplified: list[Amplified] = []
        entered = [alignment.computation.entered(row) for row in alignment.rows]
        self.values: dict[str, list[Any]] = {name: [row[name] for row in entered] for name in entered[0]}
        self._go()

    def layers(self) -> tuple[LayerDifference, ...]:
        """One entry for each value of the reference, in order."""
        telling = self._at.reference.telling
        return tuple(self._noted.get(name) or _swallowed(self._at, name) for name in telling)

    def amplified(self) -> Amplified | None:
        """Where most is lost that no operator's own rounding explains."""
        return max(self._amplified, key=lambda one: one.loss_db, default=None)

    def _go(self) -> None:
        operators = self._at.computation.operators
        # The last operator that reads each value: later ones overwrite earlier ones.
        last = {name: operator.name for operator in operators for name in operator.reads}
        for name in list(self.values):
            self._note(name, None)
        for operator in operators:
            try:
                self.values |= self._at.compute(operator, self.values)
            except (ConversionError, KeyError):  # the culprit says why; behind it there is nothing to measure
                return
            incoming = min((self._levels.get(name, math.inf) for name in operator.reads), default=math.inf)
            for name in operator.gives:
                # What has no match hands on the level of what came in.
                self._levels[name] = incoming
                if name in self.values:
                    self._note(name, operator)
            for name in operator.reads:
                if last[name] == operator.name and name not in self._at.computation.outputs:
                    self.values.pop(name, None)

    def _note(self, name: str, operator: Operator | None) -> None:
        match, stack = self._at.matches.get(name), self._at.stack(name, self.values[name])
        if match is None or stack is None:
            return
        value = self._at.reference.values[match.names[0]]
        deviation = difference(arranged(value, match.layout, stack.shape[1:]), stack)
        if operator is not None:
            # What came in, or the operator's own rounding if that is more.
            explained = min(self._levels[name], match.own.snr_db)
            self._amplified.append(Amplified(operator, explained, deviation.snr_db))
        self._levels[name] = deviation.snr_db
        moved = operator is None or bool(operator.moves)
        for one in match.names:
            # Several may be recognized as one: it is the nearest, or the first, where what follows only moves it.
            if one in self._noted and (moved or match.own.snr_db <= self._noted[one].own_snr_db):
                continue
            node = self._at.reference.node(one)
            self._noted[one] = LayerDifference(
                layer=node.layer,
                kind=node.kind,
                operator=operator.kind if operator is not None else "input",
                value=name,
                dtype=self._at.dtypes[name],
                snr_db=deviation.snr_db,
                largest=deviation.largest,
                own_snr_db=match.own.snr_db,
                own_largest=match.own.largest,
            )


def _swallowed(alignment: Alignment, name: str) -> LayerDifference:
    node = alignment.reference.node(name)
    figures = dict.fromkeys(("snr_db", "largest", "own_snr_db", "own_largest"), math.nan)
    return LayerDifference(layer=node.layer, kind=node.kind, operator="", value="", dtype="", **figures)


def output_noise(alignment: Alignment, held: dict[str, list[Any]], names: list[str]) -> tuple[OutputDifference, ...]:
    """Each output as it was computed operator by operator, and as the runtime computes it."""
    computation, differences = alignment.computation, []
    wholes = _wholes(alignment)
    for number, (value, wanted) in enumerate(zip(computation.outputs, alignment.reference.outputs, strict=True)):
        expected = alignment.reference.values.get(wanted)
        single = nearest(expected, alignment.stack(value, held[value]) if value in held else None)
        whole = nearest(expected, np.stack([run[number] for run in wholes]) if wholes else None)
        differences.append(
            OutputDifference(
                name=names[number],
                snr_db=single.snr_db,
                largest=single.largest,
                whole_snr_db=whole.snr_db,
                whole_largest=whole.largest,
            )
        )
    return tuple(differences)


def _wholes(alignment: Alignment) -> list[list[np.ndarray]]:
    try:
        return [alignment.computation.whole(row) for row in alignment.rows]
    except ConversionError:  # the culprit says which operator does not run
        return []


def nearest(wanted: np.ndarray | None, stack: np.ndarray | None) -> Difference:
    """In the arrangement that is nearest: a file of others may have its axes in another order."""
    if wanted is None or stack is None or wanted.size != stack.size:
        return _LOST
    ways = layouts(wanted.shape[1:], stack.shape[1:])
    deviations = [difference(arranged(wanted, way, stack.shape[1:]), stack) for way in ways]
    return max(deviations, key=lambda one: one.snr_db, default=_LOST)
