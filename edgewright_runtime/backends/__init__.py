"""One interface over the inference runtimes; each is imported only when a model of its format is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np

from edgewright_runtime.bundle.manifest import Kernels, TensorSpec
from edgewright_runtime.errors import BackendUnavailableError, InputRejectedError

__all__ = ["Arrays", "Backend", "import_runtime", "installed_runtimes", "load", "run_rows"]

Arrays = dict[str, np.ndarray]


class Backend(Protocol):
    """A loaded model. ``inputs`` and ``outputs`` are in the file's own order, -1 where the batch axis is free."""

    name: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """One inference: arrays by input name, in the input's dtype and shape, to arrays by output name."""
        ...

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """As `run`, unchecked: for feeds of the same shapes and dtypes as those that `run` took last."""
        ...


# By the name in a manifest: any of these packages loads its models.
_PACKAGES = {"onnxruntime": ("onnxruntime",), "litert": ("ai_edge_litert", "tflite_runtime")}


def installed_runtimes() -> frozenset[str]:
    """The inference runtimes that are here, by the names that manifests use; none is imported."""
    return frozenset(
        name for name, packages in _PACKAGES.items() if any(find_spec(package) is not None for package in packages)
    )


def import_runtime(fmt: str) -> None:
    """Import the runtime of a format now, as `load` would; raises as `load`."""
    if fmt == "onnx":
        from edgewright_runtime.backends import onnx

        onnx.import_runtime()
    elif fmt == "tflite":
        from edgewright_runtime.backends import litert

        litert.import_runtime()
    else:
        raise _unknown(fmt)


def load(
    path: str | Path,
    fmt: str,
    threads: int = 1,
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    kernels: Kernels | None = None,
) -> Backend:
    """Load a model file into the runtime of its format (``onnx`` or ``tflite``).

    ``input_names`` and ``output_names`` are the names to use instead of the file's own, in the file's order: some
    converters rename tensors (``serving_default_args_0``). ``kernels`` are the device profile's.

    Raises:
        BackendUnavailableError: the runtime is not installed, or no runtime here reads this format.
        IntegrityError: the runtime refused the file, or it has another number of tensors than names were given.
    """
    names = (tuple(input_names) if input_names else None, tuple(output_names) if output_names else None)
    if fmt == "onnx":
        from edgewright_runtime.backends.onnx import OnnxBackend

        return OnnxBackend(Path(path), threads, *names, kernels or Kernels())
    if fmt == "tflite":
        from edgewright_runtime.backends.litert import LiteRTBackend

        return LiteRTBackend(Path(path), threads, *names, kernels or Kernels())
    raise _unknown(fmt)


def _unknown(fmt: str) -> BackendUnavailableError:
    return BackendUnavailableError(f"no runtime here loads the format '{fmt}'; known: onnx, tflite")


def run_rows(backend: Backend, feeds: Mapping[str, np.ndarray]) -> Arrays:
    """Run N rows, all at once where the file's batch axis is free, else row by row.

    ``feeds`` are (N, ...) arrays; the answer holds (N, ...) arrays.

    Raises:
        InputRejectedError: inputs of different lengths, no rows, or a name or shape that does not fit.
    """
    lengths = {name: len(array) for name, array in feeds.items()}
    rows = next(iter(lengths.values()), 0)
    if not rows or set(lengths.values()) != {rows}:
        raise InputRejectedError(f"every input needs the same number of rows, at least one; found {lengths}")
    batch = {spec.shape[0] if spec.shape else 1 for spec in backend.inputs}
    # -1 and the number of rows itself: one call does for all.
    if batch in ({-1}, {rows}):
        return backend.run(feeds)
    # Row by row is possible where a call takes one row; a fixed batch of 8 cannot be filled by 3.
    if batch != {1}:
        raise InputRejectedError(f"the model takes {sorted(batch)} rows at a time, {rows} were given")
    answers = [backend.run({name: array[i : i + 1] for name, array in feeds.items()}) for i in range(rows)]
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
