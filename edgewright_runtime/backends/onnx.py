"""ONNX Runtime, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgewright_runtime.backends.tensors import check_feeds, renamed
from edgewright_runtime.errors import BackendUnavailableError, IntegrityError
from edgewright_runtime.manifest import TensorSpec

__all__ = ["OnnxBackend"]

_DTYPES = {"float": "float32", "double": "float64", "float16": "float16", "bool": "bool", "string": "str"}
_SEVERITY_ERROR = 3


class OnnxBackend:
    """An ``.onnx`` file in an inference session of its own."""

    name = "onnxruntime"

    def __init__(
        self,
        path: Path,
        threads: int = 1,
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
    ) -> None:
        try:
            import onnxruntime
        except ImportError as e:
            raise BackendUnavailableError(
                "ONNX Runtime is not installed: pip install 'edgewright-runtime[onnx]'"
            ) from e
        self.version: str = onnxruntime.__version__
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _SEVERITY_ERROR
        # A spinning pool would burn a small device's cores between two inferences.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as e:  # the runtime's exceptions share no base of their own
            reason = str(e).splitlines()[0][:300]
            raise IntegrityError(f"{path.name}: ONNX Runtime {self.version} cannot load it: {reason}") from e
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self.inputs = renamed([_spec(node) for node in inputs], input_names, "input")
        self.outputs = renamed([_spec(node) for node in outputs], output_names, "output")
        self._own_inputs = [(spec.name, node.name) for spec, node in zip(self.inputs, inputs)]
        self._own_outputs = [node.name for node in outputs]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One inference; see `Backend.run`."""
        check_feeds(self.inputs, feeds)
        return self.infer(feeds)

    def infer(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One inference of feeds that fit; see `Backend.infer`."""
        results = self._session.run(self._own_outputs, {own: feeds[name] for name, own in self._own_inputs})
        return {spec.name: result for spec, result in zip(self.outputs, results)}


def _spec(node: Any) -> TensorSpec:
    kind = node.type[len("tensor(") : -1] if node.type.startswith("tensor(") else node.type
    shape = tuple(d if isinstance(d, int) and d > 0 else -1 for d in node.shape)
    return TensorSpec(node.name, shape, _DTYPES.get(kind, kind))
