"""LiteRT (TensorFlow Lite), on the CPU with XNNPACK."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgewright_runtime.backends.tensors import check_feeds, narrowed, renamed
from edgewright_runtime.bundle.manifest import QUANTIZED_DTYPES, Kernels, TensorSpec
from edgewright_runtime.errors import BackendUnavailableError, InputRejectedError, IntegrityError, ShortageError
from edgewright_runtime.shortage import is_shortage, shortage_or

if TYPE_CHECKING:  # either is imported by its name
    import ai_edge_litert  # noqa: F401
    import tflite_runtime  # noqa: F401

__all__ = ["LiteRTBackend", "import_runtime"]

# tflite-runtime is the name of LiteRT's predecessor: the only one with wheels for 32-bit Arm.
_PACKAGES = (("ai_edge_litert", "ai-edge-litert", "litert"), ("tflite_runtime", "tflite-runtime", "tflite_runtime"))
_NUMBERED = re.compile(r"^(.*?)(\d+)$")


class LiteRTBackend:
    """A ``.tflite`` file in an interpreter of its own; ``name`` says which package ran it."""

    def __init__(
        self,
        path: Path,
        threads: int = 1,
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
        kernels: Kernels = Kernels(),  # noqa: B008 - frozen
    ) -> None:
        interpreter_of, self.name, self.version, without_delegates = import_runtime()
        # XNNPACK is on by default: False alone needs another resolver.
        options = {"experimental_op_resolver_type": without_delegates} if kernels.xnnpack is False else {}
        try:
            self._interpreter = interpreter_of(model_path=str(path), num_threads=threads, **options)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError, MemoryError) as e:
            reason = (str(e).splitlines() or [type(e).__name__])[0][:300]
            message = f"{path.name}: {self.name} {self.version} cannot load it: {reason}"
            raise shortage_or(IntegrityError, e, message) from e
        inputs, outputs = _ordered(self._interpreter)
        self.inputs = renamed([_spec(name, detail) for name, detail in inputs], input_names, "input")
        self.outputs = renamed([_spec(name, detail) for name, detail in outputs], output_names, "output")
        self._in = [(spec.name, detail["index"]) for spec, (_, detail) in zip(self.inputs, inputs)]
        self._out = [(spec.name, detail["index"]) for spec, (_, detail) in zip(self.outputs, outputs)]
        self._allocated = {name: tuple(int(d) for d in detail["shape"]) for name, detail in inputs}
        # By the names that the tensors go by here; both lists are in the same order.
        self._allocated = {name: shape for (name, _), shape in zip(self._in, self._allocated.values())}

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One inference; see `Backend.run`."""
        feeds = narrowed(self.inputs, feeds)
        check_feeds(self.inputs, feeds)
        # Allocating anew is slow, and most calls repeat a shape.
        if any(feeds[name].shape != self._allocated[name] for name, _ in self._in):
            self._resize(feeds)
        return self.infer(feeds)

    def infer(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One inference of feeds that fit; see `Backend.infer`."""
        for name, index in self._in:
            self._interpreter.set_tensor(index, feeds[name])
        try:
            self._interpreter.invoke()
        except (RuntimeError, MemoryError) as e:
            reason = (str(e).splitlines() or [type(e).__name__])[0][:300]
            raise shortage_or(InputRejectedError, e, f"{self.name}: the inference failed: {reason}") from e
        return {name: self._interpreter.get_tensor(index) for name, index in self._out}

    def _resize(self, feeds: Mapping[str, np.ndarray]) -> None:
        for name, index in self._in:
            self._interpreter.resize_tensor_input(index, feeds[name].shape, strict=True)
            self._allocated[name] = feeds[name].shape
        self._interpreter.allocate_tensors()


def import_runtime() -> tuple[Any, str, str, Any]:
    """The interpreter class, the name and version of the package it came from, and its choice without XNNPACK.

    Raises:
        BackendUnavailableError: not installed.
        ShortageError: too little memory to load it.
    """
    for module, distribution, name in _PACKAGES:
        try:
            interpreter = importlib.import_module(f"{module}.interpreter")
        except ImportError as e:
            if is_shortage(e):
                raise ShortageError(f"{distribution} cannot be loaded: {e}") from e
            continue
        without = interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        return interpreter.Interpreter, name, metadata.version(distribution), without
    raise BackendUnavailableError("LiteRT is not installed: pip install 'edgewright-runtime[litert]'")


def _ordered(interpreter: Any) -> tuple[Sequence[tuple[str, Any]], Sequence[tuple[str, Any]]]:
    """Inputs and outputs as (name, detail) in the order of the model function's own arguments and results.

    The signature knows names and order where converters number them (``args_0``, ``output_1``); a subgraph's
    own list of outputs may be shuffled. Without a signature the subgraph's order is all there is.
    """
    plain_in, plain_out = interpreter.get_input_details(), interpreter.get_output_details()
    # Of several signatures none says which is meant.
    if len(interpreter.get_signature_list()) != 1:
        return [(d["name"], d) for d in plain_in], [(d["name"], d) for d in plain_out]
    key = next(iter(interpreter.get_signature_list()))
    runner = interpreter.get_signature_runner(key)
    return (
        _by_number(list(runner.get_input_details().items()), plain_in),
        _by_number(list(runner.get_output_details().items()), plain_out),
    )


def _by_number(named: Sequence[tuple[str, Any]], plain: Sequence[Any]) -> Sequence[tuple[str, Any]]:
    matches = [_NUMBERED.match(name) for name, _ in named]
    # One common stem (args_0, args_1): the number is the position. Sorted as text, args_10 would come before args_2.
    if all(matches) and len({m.group(1) for m in matches if m}) == 1:
        return sorted(named, key=lambda item: int(_NUMBERED.match(item[0]).group(2)))  # type: ignore[union-attr]
    position = {detail["index"]: i for i, detail in enumerate(plain)}
    return sorted(named, key=lambda item: position[item[1]["index"]])


def _spec(name: str, detail: Any) -> TensorSpec:
    free = detail.get("shape_signature", detail["shape"])
    shape = tuple(-1 if s < 0 else int(d) for s, d in zip(free, detail["shape"]))
    scale, zero_point = detail["quantization"]
    stored = np.dtype(detail["dtype"]).name
    # TensorFlow Lite's scale is 0 where a tensor is not quantized, or has a scale for each channel; of floats it says
    # nothing.
    if not scale or stored not in QUANTIZED_DTYPES:
        return TensorSpec(name, shape, stored)
    return TensorSpec(name, shape, stored, float(scale), int(zero_point))
