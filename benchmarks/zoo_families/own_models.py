"""Networks written for the zoo: what the public families leave out, but people's own code is full of."""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.zoo_recipes import Feed, Recipe, audio, features, image, spectrogram, tokens, video

__all__ = ["recipes"]


def recipes() -> list[Recipe]:
    """All of them."""
    image32, series = image(32), features(20, 8)
    feeds: dict[str, dict[str, Feed]] = {
        "TiedAutoencoder": {"x": features(24)},
        "TiedLanguageModel": {"input_ids": tokens(12, 100, padded=False)},
        "UsedTwice": {"x": image32},
        "Siamese": {"left": image32, "right": image32},
        "TableAndImage": {"picture": image32, "table": features(6)},
        "TableWithCategories": {"numbers": features(6), "categories": _categories},
        "ManyHeads": {"x": image32},
        "NestedOutputs": {"x": features(12)},
        "Conv1dClassifier": {"x": features(3, 64)},
        "DilatedConv1d": {"x": features(4, 50)},
        "WaveNet": {"x": _one_channel(audio(1_000))},
        "Conv3dClassifier": {"x": video(1, 8, 16)},
        "LstmForward": {"x": series},
        "LstmBothWays": {"x": series},
        "LstmTimeFirst": {"x": series},
        "LstmProjected": {"x": series},
        "GruForward": {"x": series},
        "GruBothWays": {"x": series},
        "RnnTanh": {"x": series},
        "RnnReluBothWays": {"x": series},
        "LstmWithState": {"x": series, "h": features(16), "c": features(16)},
        "UnrolledCell": {"x": features(8, 6)},
        "ConvLstm": {"x": _clip},
        "SamePadding": {"x": image(33)},
        "SamePaddingEven": {"x": image32},
        "ChunkAndSplit": {"x": image32},
        "CumulativeSum": {"x": series},
        "RollAndFlip": {"x": image32},
        "Concatenation": {"x": features(8), "y": features(5)},
        "UNet": {"x": image(48)},
        "Decoder": {"z": features(16)},
        "SuperResolution": {"x": image(16)},
        "GroupsAndDilation": {"x": image(31)},
        "SqueezeExcite": {"x": image32},
        "EveryActivation": {"x": features(16)},
        "EveryNorm": {"x": image(16)},
        "EveryPool": {"x": image(30)},
        "TransformerEncoder": {"x": features(10, 32)},
        "TransformerPair": {"source": features(10, 32), "target": features(6, 32)},
        "MultiheadCross": {"query": features(5, 32), "memory": features(9, 32)},
        "PointNet": {"points": features(3, 40)},
        "GraphNetwork": {"nodes": features(10, 8), "adjacency": _adjacency},
        "MelSpectrogram": {"x": audio(2_000)},
        "SquashedCapsules": {"x": image32},
        "MixtureOfExperts": {"x": features(16)},
        "EinsumBilinear": {"x": features(6, 8), "y": features(6, 8)},
        "GridSampler": {"x": image32},
        "NormalizedEmbedding": {"x": image32},
        "MaskedMean": {"x": series, "lengths": _lengths},
        "TopKGate": {"x": features(12)},
        "ScaledInput": {"x": _bytes},
        "DenseWithSpectrogram": {"x": spectrogram(1, 32, 24)},
    }
    return [Recipe(f"own-{_dashed(name)}", "own", "torch", _made(name), feed) for name, feed in feeds.items()]


def _dashed(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


def _made(name: str) -> Callable[[], Any]:
    def make() -> Any:
        from benchmarks.zoo_families import own_networks

        return getattr(own_networks, name)()

    return make


def _categories(generator: np.random.Generator, rows: int) -> Any:
    """Two columns of category numbers (N, 2) int64, of 7 and 12 values."""
    return np.stack([generator.integers(0, 7, rows), generator.integers(0, 12, rows)], axis=1)


def _one_channel(feed: Feed) -> Feed:
    return lambda generator, rows: feed(generator, rows)[:, None]


def _clip(generator: np.random.Generator, rows: int) -> Any:
    """Frames first: (N, T, C, H, W)."""
    return np.ascontiguousarray(video(1, 5, 16)(generator, rows).swapaxes(1, 2))


def _adjacency(generator: np.random.Generator, rows: int) -> Any:
    """Symmetric 0/1 matrices (N, 10, 10) float32 with ones on the diagonal."""
    edges = np.triu(generator.random((rows, 10, 10)) < 0.3, 1)
    return (edges | edges.swapaxes(1, 2) | np.eye(10, dtype=bool)).astype(np.float32)


def _lengths(generator: np.random.Generator, rows: int) -> Any:
    """How many of 20 steps count (N, 1) int64."""
    return generator.integers(1, 21, (rows, 1))


def _bytes(generator: np.random.Generator, rows: int) -> Any:
    """Raw pixels 0-255 (N, 3, 24, 24) float32."""
    return np.clip(image(24)(generator, rows) * 55 + 110, 0, 255).round().astype(np.float32)
