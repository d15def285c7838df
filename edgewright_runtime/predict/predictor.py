"""The model of a bundle, from raw rows or arrays to labels and scores."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgewright_runtime.backends import Backend, load, run_rows
from edgewright_runtime.bundle.manifest import Manifest
from edgewright_runtime.bundle.opening import open_bundle
from edgewright_runtime.errors import BackendUnavailableError, EdgeRuntimeError, IntegrityError
from edgewright_runtime.predict.encoding import RawRows, dequantize, encode

__all__ = ["Prediction", "Predictor", "as_lists", "check_finite", "interpreted", "probabilities", "softmax"]

_MAX_CLASSES = 100_000  # where no labels say how many there are


@dataclass(frozen=True)
class Prediction:
    """Answers to N rows.

    ``outputs`` holds the model's outputs as real values, (N, ...) by name. Classifiers: ``scores`` (N, classes) are
    probabilities, ``indices`` (N,) the likeliest class and ``labels`` its names. Regressors: ``scores`` (N,) are the
    values, ``indices`` and ``labels`` are empty. Where the task is none, ``scores`` is the first output as it is,
    (N, ...).
    """

    outputs: Mapping[str, np.ndarray]
    scores: np.ndarray
    indices: np.ndarray
    labels: tuple[str, ...]


class Predictor:
    """An opened bundle; its files were compared with their digests when it was opened.

    It runs in as many ``threads`` as its manifest says (which has that from the device's profile), or as it is told.

    Raises:
        IntegrityError: a file of the bundle is missing or changed, or its tensors are not those of the manifest.
        BackendUnavailableError: the inference runtime is missing or older than the manifest asks for.
    """

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        self.folder = Path(folder)
        self.manifest: Manifest = open_bundle(self.folder)
        self.threads = threads or self.manifest.runtime.threads
        self.backend: Backend = load(
            self.folder / self.manifest.model,
            self.manifest.format,
            self.threads,
            input_names=[spec.name for spec in self.manifest.inputs],
            output_names=[spec.name for spec in self.manifest.outputs],
            kernels=self.manifest.runtime.kernels,
        )
        _check_version(self.backend, self.manifest.runtime.minimum_version)
        _check_tensors(self.backend, self.manifest)
        self._specs = {spec.name: spec for spec in self.manifest.outputs}

    def predict(self, raw: Mapping[str, Any] | RawRows | np.ndarray) -> Prediction:
        """Answer raw table rows (mappings of column to value) or arrays (N, ...).

        Raises:
            InputRejectedError: names, shapes, types or values that do not fit the manifest.
        """
        return self.predict_encoded(self.encode(raw))

    def encode(self, raw: Mapping[str, Any] | RawRows | np.ndarray) -> dict[str, np.ndarray]:
        """Raw rows as the model's input tensors; raises as `predict`."""
        return encode(raw, self.manifest.inputs, self.manifest.preprocessing)

    def predict_encoded(self, feeds: Mapping[str, np.ndarray]) -> Prediction:
        """Answer rows that are already the model's input tensors, (N, ...) in the stored dtypes."""
        return interpreted(run_rows(self.backend, feeds), self.manifest)


def interpreted(stored: Mapping[str, np.ndarray], manifest: Manifest) -> Prediction:
    """What stored output tensors mean: real values, probabilities, labels."""
    outputs = {spec.name: dequantize(stored[spec.name], spec) for spec in manifest.outputs}
    answer = outputs[manifest.scores.output]
    if manifest.task == "none":
        return Prediction(outputs, answer, np.empty(0, np.int64), ())
    if manifest.task == "regression":
        # Of an output with several columns the first is the value.
        return Prediction(outputs, answer.reshape(len(answer), -1)[:, 0], np.empty(0, np.int64), ())
    if manifest.scores.kind == "classes":
        scores = _one_hot(answer, manifest.labels)
    else:
        scores = probabilities(answer, manifest.scores.kind)
        if np.isnan(scores).any():
            lost = int(np.isnan(scores).any(axis=1).sum())
            raise EdgeRuntimeError(f"the model answers NaN to {lost} of {len(scores)} rows")
    indices = scores.argmax(axis=1)
    labels = manifest.labels or tuple(str(i) for i in range(scores.shape[1]))
    return Prediction(outputs, scores, indices, tuple(labels[i] for i in indices))


def check_finite(arrays: Iterable[np.ndarray]) -> None:
    """Nothing, of answers that are numbers.

    Raises:
        EdgeRuntimeError: NaN or infinity, which JSON has no way to write.
    """
    if not all(np.isfinite(array).all() for array in arrays):
        raise EdgeRuntimeError("the model answered with NaN or infinity")


def as_lists(array: np.ndarray) -> Any:
    """Nested lists; None where a number is NaN or infinite, such as a mask's, for which JSON has no word."""
    known = np.isfinite(array)
    if known.all():
        return array.tolist()
    numbers = array.astype(object)
    numbers[~known] = None
    return numbers.tolist()


def probabilities(answer: np.ndarray, kind: str) -> np.ndarray:
    """Probabilities (N, classes) of a classifier's output; one column stands for the second of two classes."""
    rows = _by_row(answer)
    if rows.shape[1] == 1:
        # (N,) and (N, 1): what sigmoid classifiers answer.
        positive = 1 / (1 + np.exp(-rows)) if kind == "logits" else rows
        return np.concatenate([1 - positive, positive], axis=1)
    return softmax(rows) if kind == "logits" else rows


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (N, classes) of logits (N, classes)."""
    # exp() of a large logit overflows; softmax does not change with a constant.
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def _by_row(answer: np.ndarray) -> np.ndarray:
    """(N, ...) as (N, columns): axes of 1 beside the classes, as in (N, 1, 10), make no rows of their own."""
    return answer.reshape(len(answer), math.prod(answer.shape[1:]))


def _one_hot(answer: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """(N, classes): a model that names its class and nothing else is entirely sure of it."""
    named = np.rint(_by_row(answer))
    if named.shape[1] != 1:
        raise EdgeRuntimeError(f"the model names {named.shape[1]} classes a row, one is expected")
    check_finite([named])
    highest = len(labels) - 1 if labels else min(int(named.max(initial=0)), _MAX_CLASSES)
    if not ((named >= 0) & (named <= highest)).all():
        raise EdgeRuntimeError(f"the model names classes {named.min():g} to {named.max():g}, there are 0 to {highest}")
    scores = np.zeros((len(named), highest + 1), np.float32)
    scores[np.arange(len(named)), named[:, 0].astype(np.int64)] = 1
    return scores


def _check_version(backend: Backend, minimum: str) -> None:
    if _release(backend.version) < _release(minimum):
        raise BackendUnavailableError(
            f"{backend.name} {backend.version} is installed, this model needs at least {minimum}: upgrade it"
        )


def _release(version: str) -> tuple[int, ...]:
    # What follows + is of the build, as in 1.2.0+cpu (PEP 440).
    numbers = [int(n) for n in re.findall(r"\d+", version.partition("+")[0])[:3]]
    return (*numbers, *([0] * (3 - len(numbers))))


def _check_tensors(backend: Backend, manifest: Manifest) -> None:
    for kind, declared, own in (
        ("input", manifest.inputs, backend.inputs),
        ("output", manifest.outputs, backend.outputs),
    ):
        # Ranks, not shapes: a batch axis may be free in the one and fixed in the other.
        actual = {spec.name: (spec.dtype, len(spec.shape)) for spec in own}
        stated = {spec.name: (spec.dtype, len(spec.shape)) for spec in declared}
        if actual != stated:
            raise IntegrityError(f"{manifest.model}: its {kind}s are {actual}, the manifest says {stated}")
