"""A Keras file or a TensorFlow SavedModel as a `Source`; TensorFlow itself works in a child process of its own."""

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from edgewright.artifact import Format
from edgewright.child import deferred, run_in_child
from edgewright.data import DataSpec
from edgewright.errors import ConversionError, InputError
from edgewright.intake.keras_found import LoadResult
from edgewright.intake.onnx_nodes import rename_ends
from edgewright.intake.source import OtherSplit, TensorSource

if TYPE_CHECKING:
    from edgewright.intake.keras_child import convert
else:
    convert = deferred("edgewright.intake.keras_child:convert")

__all__ = ["KerasSource"]

_TIMEOUT_S = 600


class KerasSource(TensorSource):
    """The loader of Keras 3 or TensorFlow is tried first, then that of Keras 2, for files of its time."""

    has_own_converters = True

    def __init__(self, path: Path, kind: Format, data: DataSpec, *, checking: bool) -> None:
        self.folder = Path(tempfile.mkdtemp())
        # What TensorFlow's process wrote is read as long as the source is in use.
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        model, failures = None, []
        # TensorFlow chooses its Keras at import, so each loader needs a process of its own.
        for legacy in (False, True):
            job = partial(convert, path.absolute(), kind, data, self.folder, legacy=legacy, checking=checking)
            environment = {"TF_USE_LEGACY_KERAS": "1" if legacy else "0", "TF_CPP_MIN_LOG_LEVEL": "3"}
            answer = self._asked(job, environment, path)
            if answer.model is not None:
                model = answer.model
                break
            failures.append(answer.failure)
        if model is None:
            raise InputError(
                f"{path}: cannot be loaded, neither by today's loader ({failures[0]}) "
                f"nor by that of Keras 2 ({failures[1]})"
            )
        super().__init__(model.inputs, model.outputs, data)
        self.refusal = model.refusal
        self.notes = (
            (f"loaded with {model.loader}",)
            if not failures
            else (f"loaded with {model.loader}, the loader of Keras 2, since today's failed: {failures[0]}",)
        )
        self.notes += model.notes
        self.single_numbers = model.numbers

    def to_onnx(self, name: str) -> onnx.ModelProto:
        """What tf2onnx made.

        Raises:
            ConversionError: it made nothing; names the operator.
        """
        if self.refusal is not None:
            raise ConversionError(f"exporting {name} to ONNX: {self.refusal}")
        model = onnx.load(self.folder / "model.onnx")
        ends = zip([*model.graph.input, *model.graph.output], [*self.inputs, *self.outputs], strict=True)
        rename_ends(model, {entry.name: tensor.name for entry, tensor in ends})
        return model

    def answers(self) -> tuple[list[NDArray[np.float64]], NDArray[np.int64] | None]:
        """The model in TensorFlow."""
        return self.judged(self._answers("test"))

    def answers_to(self, split: OtherSplit) -> list[NDArray[np.float64]]:
        """The model in TensorFlow."""
        return self._answers(split)

    def _answers(self, split: str) -> list[NDArray[np.float64]]:
        with np.load(self.folder / f"{split}.npz", allow_pickle=False) as file:
            return [file[f"arr_{place}"] for place in range(len(self.outputs))]

    def _asked(self, job: "partial[LoadResult]", environment: Mapping[str, str], path: Path) -> LoadResult:
        try:
            run = run_in_child(
                job,
                returns=LoadResult,
                what=f"loading {path.name} in TensorFlow",
                timeout_s=_TIMEOUT_S,
                environment=environment,
                writes=[self.folder],
            )
        except ConversionError as e:  # TensorFlow crashed on it
            return LoadResult(failure=str(e))
        return run.value
