"""A Keras file or a TensorFlow SavedModel as a `Source`; TensorFlow itself works in a child process of its own."""

import tempfile
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

    def __init__(self, path: Path, kind: Format, data: DataSpec, *, checking: bool) -> None:
        self.folder = tempfile.TemporaryDirectory()
        arguments = {
            "path": str(path.absolute()),
            "kind": kind.value,
            "data": data.model_dump_json(),
            "folder": self.folder.name,
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
        inputs = tuple(TensorSpec(n, tuple(s), d) for n, s, d in found["inputs"])
        name, shape, dtype = found["output"]
        super().__init__(inputs, TensorSpec(name, tuple(shape), dtype), data)
        self.notes = (
            (f"loaded with {found['loader']}",)
            if not failures
            else (f"loaded with {found['loader']}, the loader of Keras 2, since today's failed: {failures[0]}",)
        )

    def to_onnx(self, name: str) -> onnx.ModelProto:
        """What tf2onnx made."""
        model = onnx.load(Path(self.folder.name) / "model.onnx")
        ends = zip([*model.graph.input, *model.graph.output], [*self.inputs, *self.outputs], strict=True)
        rename_ends(model, {entry.name: tensor.name for entry, tensor in ends})
        return model

    def answers(self) -> tuple[NDArray[np.float64], NDArray[np.int64] | None]:
        """The model in TensorFlow."""
        return self.judged(np.load(Path(self.folder.name) / "reference.npy"))

    def _asked(self, arguments: Mapping[str, Any], environment: Mapping[str, str], path: Path) -> dict[str, Any]:
        try:
            run = run_in_child(
                "edgewright.intake.keras_child:convert",
                arguments,
                what=f"loading {path.name} in TensorFlow",
                timeout_s=_TIMEOUT_S,
                environment=environment,
            )
        except ConversionError as e:
            if "tf2onnx" in str(e):
                raise
            return {"failed": str(e)}  # TensorFlow crashed on it
        answer: dict[str, Any] = run.value
        return answer
