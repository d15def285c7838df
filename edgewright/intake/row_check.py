"""What is exported beside the model's own `predict`, row by row: a difference names the rows and the columns.

Runs in a child process: imports onnxruntime.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgewright.errors import ConversionError
from edgewright.failures import one_line

__all__ = ["RowCheck"]

_PARITY = 1e-4  # largest difference over the largest magnitude, as at intake
_TIES = 0.01  # share of rows that may stand on the other side of a tree's float32 threshold
_SHOWN = 5

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RowCheck:
    """Both ways from a raw row to an answer.

    ``rows`` are raw rows of any kind, ``asked(rows)`` the model's own answers to them, ``encoded(rows)`` the graph's
    inputs, ``changed(rows, name, cell_of)`` rows with a column taken from another row, ``nudged(rows)`` some of them
    over and over, each number a little larger or smaller in turn. ``place`` names a row.
    """

    columns: Sequence[str]
    rows: Any
    asked: Callable[[Any], Floats]
    encoded: Callable[[Any], NDArray[np.float32]]
    changed: Callable[[int, int, str], Any]
    nudged: Callable[[NDArray[np.int64]], Iterable[Any]]
    place: Callable[[int], str]
    has_trees: bool

    def compare(self, model: onnx.ModelProto, reference: Floats) -> tuple[str, ...]:
        """A note on rows that a tree decides otherwise in float32, where there are few.

        Raises:
            ConversionError: more than those; it names rows and columns.
        """
        answer = _runner(model)
        got = answer(self.encoded(self.rows))
        apart = _apart(got, reference)
        rows = np.flatnonzero(apart)
        if not len(rows):
            return ()
        shown = ", ".join(self.place(int(r)) for r in rows[:_SHOWN]) + (", ..." if len(rows) > _SHOWN else "")
        are_few = len(rows) <= _TIES * len(reference)
        if self.has_trees and are_few and self._stand_beside_thresholds(rows, got, reference):
            return (f"{len(rows)} of {len(reference)} test rows stand beside a threshold in float32: {shown}",)
        first = int(rows[0])
        causes = self._causes(answer, reference, first, np.flatnonzero(~apart))
        raise ConversionError(
            f"what a device would answer is not what the model's own predict says on {len(rows)} of {len(reference)} "
            f"test rows ({shown}); {self.place(first)}: {_said(got[first])} instead of {_said(reference[first])}; "
            f"{causes}"
        )

    def _stand_beside_thresholds(self, rows: NDArray[np.int64], got: Floats, reference: Floats) -> bool:
        """Whether the model itself answers each row as the device does, once a number of it is moved a little."""
        # The reference's scale for all: a nudged row alone may have small answers.
        scale = float(np.nanmax(np.abs(reference)))
        alike = np.zeros(len(rows), dtype=bool)
        for moved in self.nudged(rows):
            asked = self.asked(moved)
            # (turns * rows) answers, each turn with all rows in their order.
            expected = np.tile(got[rows], (len(asked) // len(rows), *[1] * (got.ndim - 1)))
            alike |= (~_apart(asked, expected, scale)).reshape(-1, len(rows)).any(axis=0)
            if alike.all():
                return True
        return False

    def _causes(self, answer: Any, reference: Floats, row: int, agreeing: NDArray[np.int64]) -> str:
        """The columns whose cell of this row spoils a row that agrees."""
        if not len(agreeing):
            return "no row agrees"
        scale = float(np.nanmax(np.abs(reference)))
        causes = []
        for name in self.columns:
            rows = self.changed(int(agreeing[0]), row, name)
            try:
                if _apart(answer(self.encoded(rows)), self.asked(rows), scale).any():
                    causes.append(f"'{name}'")
            except Exception:  # noqa: S112 - a mixed row that one side refuses tells nothing
                continue
        return f"column {', '.join(causes)}" if causes else "no single column does it"


def _apart(got: Floats, expected: Floats, scale: float | None = None) -> NDArray[np.bool_]:
    if got.shape != expected.shape:
        raise ConversionError(f"what is exported returns {got.shape}, the model itself {expected.shape}")
    # Answers that are all zero would make any rounding infinitely far.
    largest = max(float(np.nanmax(np.abs(expected))) if scale is None else scale, 1e-12)
    with np.errstate(invalid="ignore"):
        far = np.abs(got - expected) / largest
    # Missing values answer NaN on both sides, which equals nothing.
    close = (far <= _PARITY) | (np.isnan(got) & np.isnan(expected))
    return np.asarray(~close.reshape(len(got), -1).all(axis=1))


def _said(scores: Floats) -> str:
    return "[" + ", ".join(f"{v:.4g}" for v in np.ravel(scores)[:_SHOWN]) + "]"


def _runner(model: onnx.ModelProto) -> Callable[[NDArray[np.float32]], Floats]:
    import onnxruntime

    from edgewright.intake.onnx_source import run_onnx

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as e:  # ONNX Runtime's errors share no base that it exports
        raise ConversionError(f"ONNX Runtime cannot load what was exported: {one_line(e, 240)}") from e
    name = session.get_inputs()[0].name

    def answer(rows: NDArray[np.float32]) -> Floats:
        try:
            return run_onnx(session, {name: rows})[0]
        except Exception as e:  # ONNX Runtime's errors share no base that it exports
            raise ConversionError(f"ONNX Runtime cannot run what was exported: {one_line(e, 240)}") from e

    return answer
