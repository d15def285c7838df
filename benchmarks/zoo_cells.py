"""Cells of the zoo: a model, a platform, a precision and who converted; what came of it, and by which rules.

Pure: no framework, no conversion. A record holds what was measured; its outcome is decided when it is read, so a rule
can change without a conversion being run again.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "COLUMNS",
    "DB_FLOOR",
    "DB_LIMIT",
    "DB_MARGIN",
    "FLOAT32_LIMIT",
    "OURS",
    "ROUNDINGS",
    "ROUNDINGS_LIMIT",
    "Column",
    "Outcome",
    "OutputParity",
    "Record",
    "decibel_limit",
    "digest_of_parts",
    "figures",
    "is_raw",
    "outcome_of",
    "parity_of",
    "relative_limit",
]

Outcome = Literal["green", "refused", "crashed", "wrong", "unchecked"]
OUTCOMES: tuple[Outcome, ...] = ("green", "refused", "crashed", "wrong", "unchecked")
OURS = "edgewright"

FLOAT32_LIMIT = 1e-4
"""Largest difference of an output over its largest magnitude: what float32 kernels differ by after some ten layers."""
ROUNDINGS = 3.0
"""Beyond the limit an output may lie so many times as far off as the source's own float32 answers lie from its float64
ones: two kernels each stray by that, and the largest of a few numbers varies by half."""
ROUNDINGS_LIMIT = 1e-3
"""Where that allows more, too little is left of the comparison, and the fixed limit stands."""
DB_LIMIT = 10.0
"""Signal over noise of int8's outputs, dB: the error has less than a third of the answers' root mean square."""
DB_MARGIN = 1.0
"""Below the limit a file may still be as good as what the platform's own quantizer makes of the model, less this."""
DB_FLOOR = 3.0
"""Below this nothing of the answers is left, whoever made the file."""


@dataclass(frozen=True)
class Column:
    """A platform and a precision."""

    platform: str
    precision: str

    def __str__(self) -> str:
        return f"{self.platform} {self.precision}"


COLUMNS = tuple(Column(p, d) for p in ("ios", "android", "edge_device") for d in ("float32", "int8"))


@dataclass(frozen=True)
class OutputParity:
    """One output against the source's: largest difference over largest magnitude, and signal over noise in dB.

    None: infinite, which is no difference at all for ``decibels``, and an answer that is not finite for ``relative``.
    """

    relative: float | None
    decibels: float | None


@dataclass(frozen=True)
class Record:
    """What came of one conversion.

    ``status`` is ``made`` where there is a file and it ran, ``unchecked`` where only our evaluator of Core ML programs
    could not run a peer's. ``raw``: the error was none of ours, or one that only
    passes a foreign exception on. ``source_rounding``: the source's float32 answers against its float64 ones, as
    ``relative`` is; None where nobody asked, since the fixed limit holds, or where it does not run in float64.
    """

    model: str
    family: str
    tool: str
    column: Column
    status: Literal["made", "unchecked", "error", "died"]
    stage: str = ""
    message: str = ""
    raw: bool = False
    seconds: float = 0.0
    intake_seconds: float = 0.0
    size_bytes: int = 0
    parity: tuple[OutputParity, ...] = ()
    mismatch: str = ""
    notes: tuple[str, ...] = field(default=())
    source_rounding: float | None = None

    @property
    def worst_relative(self) -> float | None:
        """Of the output that is farthest off; None: not finite."""
        found = [p.relative for p in self.parity]
        return None if None in found else max((r for r in found if r is not None), default=0.0)

    @property
    def least_decibels(self) -> float:
        """Of the noisiest output; minus infinity where an answer is not finite."""
        if any(p.relative is None for p in self.parity):
            return -np.inf
        return min((p.decibels for p in self.parity if p.decibels is not None), default=np.inf)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Record":
        """Back from `to_json`."""
        fields = dict(value)
        fields["column"] = Column(**fields["column"])
        fields["parity"] = tuple(OutputParity(**p) for p in fields["parity"])
        fields["notes"] = tuple(fields["notes"])
        return cls(**fields)


# How edgewright.child passes on what was no error of ours, or the child's end.
_PASSED_ON = re.compile(
    r"(: [A-Za-z_.]*(Error|Exception|Interrupt|Failure): )|ended by SIG|ended with exit code|no result after"
)


def is_raw(is_edgewright: bool, message: str, notes: Iterable[str]) -> bool:
    """Whether an error is raw: not an `EdgewrightError`, or one that only wraps a foreign exception.

    `edgewright.child` turns whatever a child raises into a ConversionError with the child's traceback as a note.
    """
    return not is_edgewright or bool(_PASSED_ON.search(message)) or any("Traceback" in note for note in notes)


def parity_of(expected: NDArray[Any], found: NDArray[Any]) -> OutputParity:
    """How far an output lies from the source's, over all rows; both of one shape.

    Whole numbers and flags are compared as numbers: one that differs counts like any other difference.
    """
    a, b = expected.astype(np.float64).ravel(), found.astype(np.float64).ravel()
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if not np.isfinite(b[~same]).all() or not np.isfinite(a[~same]).all():
        return OutputParity(None, None)
    finite = np.isfinite(a)
    error = a[~same] - b[~same]
    scale = float(np.abs(a[finite]).max(initial=0.0)) or 1.0
    noise, signal = float(np.square(error).sum()), float(np.square(a[finite]).sum())
    decibels = None if not noise else 10 * float(np.log10(max(signal, np.finfo(float).tiny) / noise))
    return OutputParity(float(np.abs(error).max(initial=0.0)) / scale, decibels)


def outcome_of(record: Record, platform_decibels: float | None = None) -> Outcome:
    """Green, refused, crashed or wrong; unchecked for a peer's file that nothing here can run.

    Args:
        record: what was measured.
        platform_decibels: what the platform's own quantizer left of the same model, where that was tried.
    """
    if record.status == "unchecked":
        return "unchecked"
    if record.status == "died":
        return "crashed"
    if record.status == "error":
        return "crashed" if record.raw else "refused"
    if record.mismatch or record.worst_relative is None:
        return "wrong"
    if record.column.precision == "float32":
        return "green" if record.worst_relative <= relative_limit(record.source_rounding) else "wrong"
    return "green" if record.least_decibels >= decibel_limit(platform_decibels) else "wrong"


def relative_limit(source_rounding: float | None) -> float:
    """What a float32 file may be off by: 1e-4, or three times the source's own rounding where that is more.

    A deep network with random weights may amplify rounding beyond what suits most; it does so on every kernel.
    """
    own = ROUNDINGS * (source_rounding or 0.0)
    return own if FLOAT32_LIMIT < own <= ROUNDINGS_LIMIT else FLOAT32_LIMIT


def decibel_limit(platform_decibels: float | None) -> float:
    """What an int8 file must reach: 10 dB, or what the platform's own quantizer gives where that is less.

    Networks with random weights amplify the noise of rounding more than trained ones, some beyond any quantizer.
    """
    if platform_decibels is None:
        return DB_LIMIT
    return min(DB_LIMIT, max(DB_FLOOR, platform_decibels - DB_MARGIN))


def figures(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """How many cells, and how many of each outcome."""
    found = list(outcomes)
    return {"cells": len(found), **{kind: found.count(kind) for kind in OUTCOMES}}


def digest_of_parts(*parts: str) -> str:
    """SHA-256, 16 hex digits, of texts in this order."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
