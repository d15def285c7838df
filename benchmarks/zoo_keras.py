"""Keras networks of the zoo: settled as the torch ones are, saved as `.keras`. Runs in a child process."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.zoo_recipes import Recipe, rows_of, seed_of

__all__ = ["save_network"]

_CALIBRATION_ROWS = 24
_MIN_VARIANCE = 0.1
"""Of a channel, over the mean of its layer's, as for torch."""
_NEAR_ZERO = 0.01


def save_network(recipe: Recipe, path: Path) -> dict[str, Any]:
    """Build, settle and save a network.

    Raises:
        Exception: whatever Keras raises; the caller records it.
    """
    import keras

    keras.utils.set_random_seed(seed_of(recipe.name))
    model = recipe.make()
    rows = list(rows_of(recipe, _CALIBRATION_ROWS).values())
    _vary_constants(model, np.random.default_rng(seed_of(recipe.name)))
    _settle_batch_norm(model, rows)
    found = model(rows if len(rows) > 1 else rows[0], training=False)
    outputs = [np.asarray(value) for value in (found if isinstance(found, list | tuple) else [found])]
    if not all(np.isfinite(value).all() for value in outputs):
        raise ValueError("the network's own answers are not finite")
    model.save(path)
    return {
        "parameters": int(model.count_params()),
        "inputs": {i.name: [str(array.dtype), *array.shape[1:]] for i, array in zip(model.inputs, rows, strict=True)},
        "outputs": [[str(value.dtype), *value.shape[1:]] for value in outputs],
    }


def _vary_constants(model: Any, generator: np.random.Generator) -> None:
    """As for torch: scales and biases that differ from channel to channel."""
    for weight in model.trainable_weights:
        value = np.asarray(weight)
        if value.size < 2 or value.min() != value.max():
            continue
        constant = float(value.flat[0])
        near_zero = abs(constant) < _NEAR_ZERO
        drawn = (
            generator.normal(0, 0.05, value.shape) if near_zero else constant * generator.uniform(0.7, 1.3, value.shape)
        )
        weight.assign(drawn.astype(value.dtype))


def _settle_batch_norm(model: Any, rows: list[NDArray[Any]]) -> None:
    """Statistics of real rows, as after training."""
    from keras import layers

    norms = [layer for layer in model._flatten_layers() if isinstance(layer, layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    if norms:
        model(rows if len(rows) > 1 else rows[0], training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        variance = np.asarray(norm.moving_variance)
        norm.moving_variance.assign(np.maximum(variance, _MIN_VARIANCE * variance.mean()))
