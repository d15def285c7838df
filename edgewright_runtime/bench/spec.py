"""What the bench measures, and on which rows: the part of it that a workstation writes and a device reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np

from edgewright_runtime.backends import Backend, load
from edgewright_runtime.bundle.manifest import Kernels
from edgewright_runtime.errors import InputRejectedError
from edgewright_runtime.predict.encoding import quantize
from edgewright_runtime.wire import read, rule

__all__ = [
    "BenchModel",
    "BenchSpec",
    "load_model",
    "read_arrays",
    "single_rows",
    "spec_json",
    "spec_of",
    "stored_feeds",
    "write_arrays",
]

_PREFIX = "a."


@dataclass(frozen=True)
class BenchModel:
    """One model file and the names its tensors go by in the rows, in the file's order."""

    path: str
    format: str
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class BenchSpec:
    """What to measure. ``rows`` is the file of `write_arrays`: (N, ...) by input name, in real units, never quantized.

    ``warm`` takes at least ``min_runs`` runs of each model, ``min_rounds`` rounds and ``min_seconds``, spread over
    ``epochs`` loads, and further epochs until the standard error of every ratio to the first model is below
    ``precision``. After ``max_seconds`` no further epoch begins for precision's sake alone, after a minute none at all.
    ``limit_mb`` bounds what the process may allocate beyond what it holds before the model is loaded, ``cores`` the
    processors it may use; ``cgroup`` is a control group that it enters instead, whose own bound holds from there on.
    ``kernels`` are the device profile's.
    """

    task: str
    models: tuple[BenchModel, ...]
    rows: str
    threads: int = field(default=1, metadata=rule(ge=1))
    outputs: str = ""
    min_runs: int = 60
    min_rounds: int = 40
    min_seconds: float = field(default=1.0, metadata=rule(ge=0))
    epochs: int = field(default=8, metadata=rule(ge=1))
    max_seconds: float = field(default=5.0, metadata=rule(ge=0))
    precision: float = field(default=0.006, metadata=rule(ge=0))
    limit_mb: Optional[float] = field(default=None, metadata=rule(ge=0))
    cores: Optional[int] = field(default=None, metadata=rule(ge=1))
    cgroup: str = ""
    kernels: Kernels = field(default_factory=Kernels)
    seed: int = 0


def spec_json(spec: BenchSpec) -> str:
    """A specification as the file that ``--spec`` reads."""
    return json.dumps(asdict(spec))


def spec_of(content: Mapping[str, Any]) -> BenchSpec:
    """What `spec_json` wrote.

    Raises:
        IntegrityError: an unknown or missing key, a wrong type or range.
    """
    return read(BenchSpec, content, "bench specification")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Arrays by name as an ``.npz``, whatever the names: a prefix keeps them apart from `numpy.savez`'s parameters."""
    prefixed: Any = {_PREFIX + name: array for name, array in arrays.items()}
    np.savez(path, **prefixed)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """What `write_arrays` wrote."""
    with np.load(path, allow_pickle=False) as archive:
        return {name[len(_PREFIX) :]: archive[name] for name in archive.files}


def load_model(model: BenchModel, spec: BenchSpec) -> Backend:
    """The model in its own runtime, with the specification's threads and kernels, its tensors named as in the rows."""
    return load(
        model.path,
        model.format,
        spec.threads,
        input_names=model.input_names or None,
        output_names=model.output_names or None,
        kernels=spec.kernels,
    )


def stored_feeds(backend: Backend, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows in real units as the model's input tensors store them, (N, ...) each.

    Raises:
        InputRejectedError: an input that no array has.
    """
    missing = [spec.name for spec in backend.inputs if spec.name not in rows]
    if missing:
        raise InputRejectedError(f"the model's inputs {missing} are not among the rows' arrays {sorted(rows)}")
    return {spec.name: quantize(rows[spec.name], spec) for spec in backend.inputs}


def single_rows(backend: Backend, rows: Mapping[str, np.ndarray], limit: int) -> list[dict[str, np.ndarray]]:
    """Up to ``limit`` different rows, each as the feeds of one inference at the file's own batch (1 where free)."""
    if not backend.inputs:
        raise InputRejectedError("the model has no inputs: there is nothing that rows could be given to")
    # A free axis is -1: one row at a time.
    batch = max(1, *(spec.shape[0] if spec.shape else 1 for spec in backend.inputs))
    few = {name: np.asarray(array[: limit * batch]) for name, array in rows.items()}
    stored = stored_feeds(backend, few)
    count = len(next(iter(stored.values()))) // batch
    if count == 0:
        raise InputRejectedError(f"the model takes {batch} rows at a time, fewer were given")
    return [{name: a[i * batch : (i + 1) * batch].copy() for name, a in stored.items()} for i in range(count)]
