"""A loaded source model with its data, whatever framework it comes from. Runs in a child process."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgewright.data import DataSpec
from edgewright.intake.answers import answers_of_network, single_score_threshold
from edgewright.intake.arrays import Samples, read_arrays
from edgewright.intake.row_mixing import refuse_mixed_rows
from edgewright_runtime.bundle.manifest import Preprocessing, TensorSpec

if TYPE_CHECKING:
    import onnx

__all__ = ["AskedSource", "OtherSplit", "Source", "TensorSource"]

OtherSplit = Literal["calibration", "validation"]


class Source(ABC):
    """What intake needs to know of a source model. Made only with data that fits it."""

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
    single_numbers: Mapping[str, bool | int | float] = MappingProxyType({})
    """What inputs of a SavedModel that are one number for all rows were fixed at."""
    has_own_converters: bool = False
    """Whether platforms convert the source file itself, so that neither ONNX nor a graph need be made of it."""

    @abstractmethod
    def to_onnx(self, name: str) -> "onnx.ModelProto":
        """ONNX by the framework's own exporter; its inputs and outputs bear the names in ``inputs``, ``outputs``."""

    def to_graph(self) -> Any:
        """The internal graph, where the framework's own program is one; None where ONNX is the way to it.

        Raises:
            UnsupportedError: the program holds an operation that has no place in a graph; names it.
        """
        return None

    @abstractmethod
    def answers(self) -> tuple[list[NDArray[np.float64]], NDArray[np.int64] | None]:
        """The model's own answers for the test rows, one array an output; for classifiers the class it predicts.

        Raises:
            InputError: the model refuses its own data.
            UnsupportedError: its answer to a row depends on the rows beside it (see `refuse_mixed_rows`).
        """

    @abstractmethod
    def answers_to(self, split: OtherSplit) -> list[NDArray[np.float64]] | None:
        """The model's own answers for rows of another split; None where the imported model is to give them."""


class TensorSource(Source):
    """A model that takes tensors as they are, and whose meaning shows only in its data."""

    def __init__(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], data: DataSpec) -> None:
        self.inputs, self.outputs = inputs, outputs
        self.samples = read_arrays(data, inputs, lambda y: answers_of_network(y, outputs, data))
        self.preprocessing = Preprocessing(scale=data.scale, mean=data.mean)
        self.decides, self.labels = self.samples.decides, self.samples.labels

    def inputs_of(self, split: OtherSplit | Literal["test"]) -> list[NDArray[Any]]:
        """The inputs of the rows of a split."""
        return [x[getattr(self.samples.rows, split)] for x in self.samples.inputs.values()]

    def judged(self, answers: list[NDArray[np.float64]]) -> tuple[list[NDArray[np.float64]], NDArray[np.int64] | None]:
        """The outputs; for classifiers with the class of the greatest score, or of the only one by its threshold."""
        if self.labels is None:
            return answers, None
        # All scores of a row on one axis, however many axes the output has.
        flat = answers[self.decides].reshape(len(answers[self.decides]), -1)
        if flat.shape[1] > 1:
            return answers, flat.argmax(axis=1).astype(np.int64)
        threshold = single_score_threshold(flat)
        meant = "a probability" if threshold else "a logit, since it leaves 0-1"
        self.notes += (f"the one output is {meant}: above {threshold:g} it is class '{self.labels[1]}'",)
        return answers, (flat[:, 0] > threshold).astype(np.int64)


class AskedSource(TensorSource):
    """A model that is asked in this process, as often as need be."""

    @abstractmethod
    def ask(self, inputs: list[NDArray[Any]]) -> list[NDArray[np.float64]]:
        """The model's own answers to some rows, one array an output.

        Raises:
            InputError: it refuses the rows.
        """

    def answers(self) -> tuple[list[NDArray[np.float64]], NDArray[np.int64] | None]:
        """The model's answers to the test rows, which do not depend on the rows beside them."""
        inputs = self.inputs_of("test")
        answers = self.ask(inputs)
        # Asked before the answers are judged: of rows that depend on others no accuracy means anything.
        self.notes += refuse_mixed_rows(
            lambda rows: self.ask([x[rows] for x in inputs]),
            answers,
            self.outputs,
            batch=self.inputs[0].shape[0],
            float32_only=self.float32_only,
        )
        return self.judged(answers)

    def answers_to(self, split: OtherSplit) -> list[NDArray[np.float64]]:
        """The model's answers to the rows of another split."""
        return self.ask(self.inputs_of(split))
