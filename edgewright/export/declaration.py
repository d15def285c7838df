"""What a model file says of itself, and how far it is from another."""

from dataclasses import dataclass
from pathlib import Path

from edgewright.artifact import Format
from edgewright.export.diagnosis_report import Diagnosis
from edgewright_runtime.bundle.manifest import TensorSpec

__all__ = ["LOUD_SNR_DB", "Checked", "Declared", "Disagreement", "File"]

LOUD_SNR_DB = 10.0
"""Below it an output is noisy, which a note tells: the error is a third of the signal."""


@dataclass(frozen=True)
class File:
    """A model file and its format."""

    path: Path
    form: Format


@dataclass(frozen=True)
class Declared:
    """Inputs and outputs of a file; ``runtime_floor`` where the file decides which runtime loads it;
    ``largest_pair_sum`` of int8 for ONNX Runtime (`edgewright_runtime.bundle.manifest.Processor`); ``snr_db``: signal
    over the error of fewer bits, of the worst output on real rows, where that was measured; ``tolerance``: of each
    output whose own float32 rounding asks for more than the fixed limit, the largest difference that is allowed, in
    the output's unit."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    runtime_floor: str | None = None
    notes: tuple[str, ...] = ()
    largest_pair_sum: int | None = None
    snr_db: float | None = None
    tolerance: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Disagreement:
    """What is said of a file that does not answer as its model does; ``diagnosis``: where it begins."""

    said: str
    diagnosis: Diagnosis | None


@dataclass(frozen=True)
class Checked:
    """A file's declaration, and whether its answers are those of its model."""

    declared: Declared
    disagreement: Disagreement | None
