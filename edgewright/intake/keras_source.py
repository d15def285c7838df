"""A Keras file or a TensorFlow SavedModel as a `Source`; TensorFlow itself works in a child process of its own."""

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgewright.artifact import Format
from edgewright.child import run_in_child
from edgewright.data import DataSpec
from edgewright.errors import ConversionError, InputError
from edgewright.intake.onnx_nodes import rename_ends
from edgewright.intake.source import TensorSource
from edgewright_runtime.manifest import TensorSpec

__all__ = ["KerasSource"]

_TIMEOUT_S = 600


class KerasSource(TensorSource):
    """The loader of Keras 3 or TensorFlow is tried first, then that of Keras 2, for files of its time."""

    has_own_converters = True

    def __init__(self, path: Path, kind: Format, data: DataSpec, *, checking: bool) -> None:
        self.folder = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        arguments = {
            "path": str(path.absolute()),
            "kind": kind.value,
            "data": data.model_dump_json(),
            "folder": str(self.folder),
            "checking": checking,
        }
        found, failures = None, []
        for legacy in (False, True):
            environment = {"TF_USE_LEGACY_KERAS": "1" if legacy else "0", "TF_CPP_MIN_LOG_LEVEL": "3"}
            answer = self._asked(arguments | {"legacy": legacy}, environment, path)
            if "failed" not in answer:
                found = answer
                break
            failures.append(answer["failed"])
        if found is None:
            raise InputError(
                f"{path}: cannot be loaded, neither by today's loader ({failures[0]}) "
                f"nor by that of Keras 2 ({failures[1]})"
            )
        inputs, outputs = (
            tuple(TensorSpec(n, tuple(s), d) for n, s, d in found[side]) for side in ("inputs", "outputs")
        )
        super().__init__(inputs, outputs, data)
        self.refusal: str | None = found["refusal"]
        self.notes = (
            (f"loaded with {found['loader']}",)
            if not failures
            else (f"loaded with {found['loader']}, the loader of Keras 2, since today's failed: {failures[0]}",)
        )
        self.notes += tuple(found["notes"])

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

    def validation_answers(self) -> list[NDArray[np.float64]]:
        """The model in TensorFlow."""
        return self._answers("validation")

    def _answers(self, split: str) -> list[NDArray[np.float64]]:
        with np.load(self.folder / f"{split}.npz", allow_pickle=False) as file:
            return [file[f"arr_{place}"] for place in range(len(self.outputs))]

    def _asked(self, arguments: Mapping[str, Any], environment: Mapping[str, str], path: Path) -> dict[str, Any]:
        try:
            run = run_in_child(
                "edgewright.intake.keras_child:convert",
                arguments,
                what=f"loading {path.name} in TensorFlow",
                timeout_s=_TIMEOUT_S,
                environment=environment,
                writes=[self.folder],
            )
        except ConversionError as e:  # TensorFlow crashed on it
            return {"failed": str(e)}
        answer: dict[str, Any] = run.value
        return answer
