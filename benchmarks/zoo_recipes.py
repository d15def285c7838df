"""What a model of the zoo is made of: a way to build it, and rows shaped like the ones it would see in use.

Imports numpy alone: a roster of recipes can be listed without any ML framework.
"""

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "TEST_ROWS",
    "Feed",
    "Kind",
    "Recipe",
    "audio",
    "channels_last",
    "features",
    "image",
    "mask",
    "rows_of",
    "seed_of",
    "spectrogram",
    "tokens",
    "video",
    "write_rows",
]

TEST_ROWS = 8
_TRAINING_ROWS = 64  # ranges of a dozen rows are those of no model that anybody ships

Kind = str
"""``torch`` (built, saved as ``.pt2``), ``keras`` (built, ``.keras``) or ``file`` (a model that a package ships)."""
Feed = Callable[[np.random.Generator, int], NDArray[Any]]
"""(generator, rows) to rows of one input, (rows, ...)."""


@dataclass(frozen=True)
class Recipe:
    """One architecture: ``make`` gives a torch module, a Keras model or the path of a file.

    ``feeds`` are in the order of the model's inputs, under the names of its parameters.
    """

    name: str
    family: str
    kind: Kind
    make: Callable[[], Any]
    feeds: Mapping[str, Feed]
    note: str = ""


def seed_of(name: str) -> int:
    """A seed that depends on the name alone, so that a model is the same whatever else is built."""
    return zlib.crc32(name.encode())


def rows_of(recipe: Recipe, count: int) -> dict[str, NDArray[Any]]:
    """The first ``count`` rows of every input."""
    return {
        name: feed(np.random.default_rng([seed_of(recipe.name), i]), count)
        for i, (name, feed) in enumerate(recipe.feeds.items())
    }


def write_rows(recipe: Recipe, path: Path) -> None:
    """Training and test rows as ``x_train``, ``x_test`` (with ``.<input>`` where there are several), ``y_*``.

    The answers are random numbers: nothing is learned here, and real numbers need no classes.
    """
    inputs = rows_of(recipe, _TRAINING_ROWS + TEST_ROWS)
    answers = np.random.default_rng(seed_of(recipe.name)).normal(size=_TRAINING_ROWS + TEST_ROWS).astype(np.float32)
    arrays = {"y_train": answers[:_TRAINING_ROWS], "y_test": answers[_TRAINING_ROWS:]}
    for name, rows in inputs.items():
        suffix = f".{name}" if len(inputs) > 1 else ""
        arrays[f"x_train{suffix}"], arrays[f"x_test{suffix}"] = rows[:_TRAINING_ROWS], rows[_TRAINING_ROWS:]
    np.savez(path, **arrays)


def image(height: int, width: int | None = None, channels: int = 3) -> Feed:
    """Images (N, C, H, W) with the 1/f spectrum of photographs, in the range of ImageNet's normalization."""

    def feed(generator: np.random.Generator, rows: int) -> NDArray[np.float32]:
        return _pink(generator, (rows, channels, height, width or height))

    return feed


def channels_last(feed: Feed) -> Feed:
    """The same rows with their channels at the end, as Keras takes them."""
    return lambda generator, rows: np.ascontiguousarray(np.moveaxis(feed(generator, rows), 1, -1))


def video(channels: int, frames: int, height: int) -> Feed:
    """Clips (N, C, T, H, W)."""

    def feed(generator: np.random.Generator, rows: int) -> NDArray[np.float32]:
        still = _pink(generator, (rows, channels, height, height))
        moved = [np.roll(still, t, axis=-1) + 0.1 * generator.normal(size=still.shape) for t in range(frames)]
        return np.stack(moved, axis=2).astype(np.float32)

    return feed


def _pink(generator: np.random.Generator, shape: tuple[int, int, int, int]) -> NDArray[np.float32]:
    rows, channels, height, width = shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    noise = np.fft.rfft2(generator.normal(size=(rows, channels + 1, height, width))) / frequency
    planes = np.fft.irfft2(noise, s=(height, width))
    planes /= planes.std(axis=(-2, -1), keepdims=True) + 1e-6
    colours = planes[:, :1] + 0.4 * planes[:, 1:]  # what the channels share, and what they do not
    contrast = generator.uniform(0.5, 1.0, (rows, 1, 1, 1))
    brightness = generator.normal(0, 0.4, (rows, channels, 1, 1))
    return np.clip(colours * contrast + brightness, -2.1, 2.6).astype(np.float32)


def tokens(length: int, vocabulary: int, padded: bool = True, first: int = 3) -> Feed:
    """Token ids (N, length) int64; the end of every fourth row is padding, id 0, where `mask` has zeros."""

    def feed(generator: np.random.Generator, rows: int) -> NDArray[np.int64]:
        ids = generator.integers(first, vocabulary, (rows, length), dtype=np.int64)
        return ids * _kept(rows, length) if padded else ids

    return feed


def mask(length: int) -> Feed:
    """Attention masks (N, length) int64 that go with `tokens`."""
    return lambda _, rows: _kept(rows, length)


def _kept(rows: int, length: int) -> NDArray[np.int64]:
    lengths = np.where(np.arange(rows) % 4 == 3, length - length // 4, length)
    return (np.arange(length)[None] < lengths[:, None]).astype(np.int64)


def audio(samples: int, rate: int = 16_000) -> Feed:
    """Sound (N, samples): three tones under an envelope, in noise, of unit variance."""

    def feed(generator: np.random.Generator, rows: int) -> NDArray[np.float32]:
        time = np.arange(samples) / rate
        pitch = generator.uniform(80, 2_000, (rows, 3, 1))
        envelope = 1 + np.sin(2 * math.pi * generator.uniform(2, 8, (rows, 1)) * time)
        sound = np.sin(2 * math.pi * pitch * time).sum(axis=1) * envelope
        sound += 0.3 * generator.normal(size=sound.shape)
        return (sound / sound.std(axis=1, keepdims=True)).astype(np.float32)

    return feed


def spectrogram(*shape: int) -> Feed:
    """Log-mel features (N, *shape): smooth along the last axis, of unit variance."""

    def feed(generator: np.random.Generator, rows: int) -> NDArray[np.float32]:
        noise = generator.normal(size=(rows, *shape))
        smooth = (noise + np.roll(noise, 1, axis=-1) + np.roll(noise, 2, axis=-1)) / math.sqrt(3)
        return smooth.astype(np.float32)

    return feed


def features(*shape: int) -> Feed:
    """Standardized measurements (N, *shape)."""
    return lambda generator, rows: generator.normal(size=(rows, *shape)).astype(np.float32)
