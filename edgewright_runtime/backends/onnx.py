"""ONNX Runtime, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgewright_runtime.backends.tensors import check_feeds, narrowed, renamed
from edgewright_runtime.bundle.manifest import Kernels, TensorSpec
from edgewright_runtime.errors import (
    BackendUnavailableError,
    EdgeRuntimeError,
    InputRejectedError,
    IntegrityError,
    ShortageError,
)
from edgewright_runtime.shortage import is_shortage, shortage_or

__all__ = ["OnnxBackend", "import_runtime"]

_DTYPES = {"float": "float32", "double": "float64", "float16": "float16", "bool": "bool", "string": "str"}
_SEVERITY_ERROR = 3
_CPU, _XNNPACK = "CPUExecutionProvider", "XnnpackExecutionProvider"


class OnnxBackend:
    """An ``.onnx`` file in an inference session of its own."""

    name = "onnxruntime"

    def __init__(
        self,
        path: Path,
        threads: int = 1,
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
        kernels: Kernels = Kernels(),  # noqa: B008 - frozen
    ) -> None:
        onnxruntime = import_runtime()
        self.version: str = onnxruntime.__version__
        providers, own_threads = _providers(onnxruntime.get_available_providers(), threads, kernels)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = own_threads
        # Operators one after another: a second pool would contend with the first for a few cores.
        options.inter_op_num_threads = 1
        options.log_severity_level = _SEVERITY_ERROR
        # A spinning pool would burn a small device's cores between two inferences.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        for key, value in _entries(kernels).items():
            options.add_session_config_entry(key, value)
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as e:  # the runtime's exceptions share no base of their own
            reason = (str(e).splitlines() or [type(e).__name__])[0][:300]
            message = f"{path.name}: ONNX Runtime {self.version} cannot load it: {reason}"
            raise shortage_or(IntegrityError, e, message) from e
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self.inputs = renamed([_spec(node) for node in inputs], input_names, "input")
        self.outputs = renamed([_spec(node) for node in outputs], output_names, "output")
        self._own_inputs = [(spec.name, node.name) for spec, node in zip(self.inputs, inputs)]
        self._own_outputs = [node.name for node in outputs]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One inference; see `Backend.run`."""
        feeds = narrowed(self.inputs, feeds)
        check_feeds(self.inputs, feeds)
        return self.infer(feeds)

    def infer(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One inference of feeds that fit; see `Backend.infer`."""
        try:
            results = self._session.run(self._own_outputs, {own: feeds[name] for name, own in self._own_inputs})
        except Exception as e:  # the runtime's exceptions share no base of their own
            kind = InputRejectedError if type(e).__name__ == "InvalidArgument" else EdgeRuntimeError
            reason = (str(e).splitlines() or [type(e).__name__])[0][:300]
            raise shortage_or(kind, e, f"{self.name}: the inference failed: {reason}") from e
        return {spec.name: result for spec, result in zip(self.outputs, results)}


def import_runtime() -> Any:
    """The package.

    Raises:
        BackendUnavailableError: not installed.
        ShortageError: too little memory to load it.
    """
    try:
        import onnxruntime
    except ImportError as e:
        if is_shortage(e):
            raise ShortageError(f"ONNX Runtime cannot be loaded: {e}") from e
        raise BackendUnavailableError("ONNX Runtime is not installed: pip install 'edgewright-runtime[onnx]'") from e
    return onnxruntime


def _providers(available: Sequence[str], threads: int, kernels: Kernels) -> tuple[list[Any], int]:
    """Execution providers, first choice first, and the threads of ONNX Runtime's own pool.

    XNNPACK has a pool of its own; two of them would contend for the cores, so the documentation leaves one thread to
    the other. The wheels for Linux are built without it: it is used where a board's build has it.
    """
    if kernels.xnnpack and _XNNPACK in available:
        return [(_XNNPACK, {"intra_op_num_threads": str(threads)}), _CPU], 1
    return [_CPU], threads


def _entries(kernels: Kernels) -> dict[str, str]:
    """Session entries (onnxruntime_session_options_config_keys.h); elsewhere than on Arm, ``mlas`` has no effect."""
    entries = {}
    if kernels.kleidiai is not None:
        entries["mlas.disable_kleidiai"] = "0" if kernels.kleidiai else "1"
    if kernels.bfloat16 is not None:
        entries["mlas.enable_gemm_fastmath_arm64_bfloat16"] = "1" if kernels.bfloat16 else "0"
    if kernels.int8 is not None:
        entries["session.disable_quant_qdq"] = "0" if kernels.int8 else "1"
    return entries


def _spec(node: Any) -> TensorSpec:
    kind = node.type[len("tensor(") : -1] if node.type.startswith("tensor(") else node.type
    # A free axis is a name, or None.
    shape = tuple(d if isinstance(d, int) and d > 0 else -1 for d in node.shape)
    return TensorSpec(node.name, shape, _DTYPES.get(kind, kind))
