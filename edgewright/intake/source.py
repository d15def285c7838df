"""A loaded source model with its data, whatever framework it comes from. Runs in a child process."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgewright.artifact import Format
from edgewright.data import DataSpec
from edgewright.errors import InputError, UnsupportedError
from edgewright.intake.arrays import Samples, read_arrays
from edgewright_runtime.manifest import Preprocessing, TensorSpec

__all__ = ["Source", "TensorSource", "class_indices", "opened"]


class Source(ABC):
    """What the door needs to know of a source model. Made only with data that fits it."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...] | None
    """A classifier's classes, in the order of its scores; None for a regressor."""
    samples: Samples
    preprocessing: Preprocessing
    float32_only: bool = False
    raw: NDArray[np.str_] | None = None
    """The first test rows as JSON, for tables."""
    notes: tuple[str, ...] = ()

    @abstractmethod
    def to_onnx(self, name: str) -> onnx.ModelProto:
        """ONNX by the framework's own exporter; its inputs and outputs bear the names in ``inputs``, ``outputs``."""

    @abstractmethod
    def answers(self) -> tuple[NDArray[np.float64], NDArray[np.int64] | None]:
        """The model's own scores or values for the test rows, and for classifiers the class it predicts."""


def opened(path: Path, kind: Format, data: DataSpec, *, checking: bool = False) -> Source:
    """Load a model and its data; ``checking`` leaves out what only `take_in` needs.

    Raises:
        InputError, UntrustedModelError, UnsupportedError: as `edgewright.intake.preflight`.
    """
    match kind:
        case Format.PT2:
            from edgewright.intake.torch_source import TorchSource

            return TorchSource(path, data)
        case Format.TORCH_FACTORY:
            from edgewright.intake.factory_source import FactorySource

            return FactorySource(path, data)
        case Format.SKLEARN:
            from edgewright.intake.sklearn_model import SklearnSource

            return SklearnSource(path, data)
        case Format.ONNX:
            from edgewright.intake.onnx_source import OnnxSource

            return OnnxSource(path, data)
        case Format.KERAS | Format.SAVED_MODEL:
            from edgewright.intake.keras_source import KerasSource

            return KerasSource(path, kind, data, checking=checking)
        case _:
            raise UnsupportedError(f"{path}: a {kind} file is no source model")


class TensorSource(Source):
    """A model that takes tensors as they are, and whose meaning shows only in its data."""

    def __init__(self, inputs: tuple[TensorSpec, ...], output: TensorSpec, data: DataSpec) -> None:
        self.inputs, self.outputs = inputs, (output,)
        self.samples = read_arrays(data, inputs)
        self.preprocessing = Preprocessing(scale=data.scale, mean=data.mean)
        self.labels = labels_of(self.samples.y, output, data.path)

    def test_inputs(self) -> list[NDArray[Any]]:
        """The inputs of the test rows."""
        return [x[self.samples.rows.test] for x in self.samples.inputs.values()]

    def judged(self, scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64] | None]:
        """Scores with the class of the greatest one, for classifiers."""
        return scores, None if self.labels is None else scores.argmax(axis=1).astype(np.int64)


def labels_of(y: NDArray[Any], output: TensorSpec, path: Path) -> tuple[str, ...] | None:
    """Class numbers as labels where the answers are whole numbers and the output has a score for each class.

    Raises:
        InputError: a class has no score.
    """
    classes = output.shape[-1] if len(output.shape) == 2 else 1
    if y.dtype.kind not in "iub" or classes < 2:
        if y.dtype.kind in "OUS":
            raise InputError(f"{path}: answers are text ({y[0]!r}); give class numbers 0-{max(classes - 1, 0)}")
        return None
    if y.min() < 0 or y.max() >= classes:
        raise InputError(f"{path}: classes {y.min()}-{y.max()} but the model has scores for 0-{classes - 1}")
    return tuple(str(c) for c in range(classes))


def class_indices(y: NDArray[Any], classes: NDArray[Any], path: Path) -> tuple[NDArray[np.int64], str | None]:
    """Answers as positions in ``classes``; where the data names them otherwise, in sorted order, with a note.

    Raises:
        InputError: the data has other classes than the model.
    """
    as_text = {str(c): i for i, c in enumerate(classes)}
    for i, c in enumerate(classes):  # a table holds 1 where the classes are 1.0
        if isinstance(c, (float, np.floating)) and float(c).is_integer():
            as_text.setdefault(str(int(c)), i)
    found = sorted({str(v) for v in y})
    if set(found) <= set(as_text):
        return np.array([as_text[str(v)] for v in y], dtype=np.int64), None
    if len(found) != len(classes):
        unknown = next(v for v in found if v not in as_text)
        raise InputError(f"{path}: the target holds '{unknown}', but the model knows {', '.join(as_text)}")
    position = {v: i for i, v in enumerate(found)}
    pairs = ", ".join(f"{v} = {c}" for v, c in zip(found, classes, strict=True))
    note = f"the target's values were matched with the model's classes in sorted order: {pairs}"
    return np.array([position[str(v)] for v in y], dtype=np.int64), note
