"""Image inputs and class labels as Core ML takes and gives them: 8-bit pixels, and scores by label."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgewright.artifact import Dataset, ImportedModel
from edgewright.errors import UnsupportedError
from edgewright.export.mil_program import CLASSES_NOTE, SCORES_NOTE, Pixels
from edgewright_runtime.bundle.manifest import TensorSpec

__all__ = ["as_images", "as_pixels", "as_scores", "refuse_other_than_pixels"]

_ROWS = 200
_LARGEST = 255
_ROUNDING = 0.02  # of one step of grey: what float32 leaves of a whole number that was scaled
_SPLITS = ("calibration", "validation", "test")


def refuse_other_than_pixels(model: ImportedModel, dataset: Dataset) -> None:
    """Refuse what rounding to 8 bits would change, before anything is converted.

    Raises:
        UnsupportedError: an input without one or three channels, or rows that are not whole numbers from 0 to 255
            before their preprocessing.
    """
    for spec in model.inputs:
        if len(spec.shape) != 4 or spec.shape[1] not in {1, 3} or model.preprocessing.columns:
            shape = tuple(max(n, 1) for n in spec.shape)
            raise UnsupportedError(f"input '{spec.name}' of shape {shape} is not an image (1, 1 or 3, height, width)")
    with np.load(dataset.artifact.path, allow_pickle=False) as arrays:
        for spec in model.inputs:
            # Of whichever split there is: all were scaled alike.
            name = next((f"{s}.x.{spec.name}" for s in _SPLITS if f"{s}.x.{spec.name}" in arrays.files), None)
            if name is not None:
                _check(spec, arrays[name][:_ROWS], model)


def _check(spec: TensorSpec, rows: np.ndarray, model: ImportedModel) -> None:
    done = model.preprocessing
    # The preprocessing backwards: what an app would have to give for these rows.
    raw = rows.astype(np.float64) / done.scale + done.mean
    low, high = float(raw.min()), float(raw.max())
    whole = bool((np.abs(raw - np.rint(raw)) <= _ROUNDING).all())
    if whole and low >= -_ROUNDING and high <= _LARGEST + _ROUNDING:
        return
    extent = f"{'whole' if whole else 'fractional'} numbers from {low:.4g} to {high:.4g}"
    raise UnsupportedError(
        f"image_inputs: an app gives whole pixels from 0 to 255; the data's rows of '{spec.name}', before"
        f" (raw - {done.mean:g}) * {done.scale:g}, are {extent}: give pixels in the data, and their scale and mean in"
        " its .yaml, or leave image_inputs off"
    )


def as_pixels(rows: np.ndarray, scale: float, mean: float) -> np.ndarray:
    """The 8-bit pixels (N, C, H, W) that ``(pixel - mean) * scale`` made the model's rows of."""
    return np.clip(np.rint(rows / scale + mean), 0, _LARGEST).astype(np.uint8)


def as_images(typed: Mapping[str, Pixels], row: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """One row (1, ...) as Core ML's `predict` takes it: Pillow images for the inputs that are ``typed`` as such."""
    from PIL import Image

    given: dict[str, Any] = dict(row)
    for name, pixels in typed.items():
        image = as_pixels(row[name][0], pixels.scale, pixels.mean)
        # Pillow has no axis of one channel, and its channels are last.
        given[name] = Image.fromarray(image[0] if len(image) == 1 else np.moveaxis(image, 0, 2))
    return given


def as_scores(description: Any, answer: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What `predict` gave for one row, as the source model's outputs (1, ...): scores by label become a tensor.

    ``description`` is the package's own.
    """
    notes, by_label = description.metadata.userDefined, description.predictedProbabilitiesName
    if not by_label:
        return {name: np.asarray(value) for name, value in answer.items()}
    own = {by_label, description.predictedFeatureName}
    # Core ML's dictionary has no order; that of the classes is noted in the package.
    scores = np.array([[answer[by_label][label] for label in json.loads(notes[CLASSES_NOTE])]], np.float32)
    return {name: np.asarray(value) for name, value in answer.items() if name not in own} | {notes[SCORES_NOTE]: scores}
