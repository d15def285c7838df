"""Trained models that packages ship on PyPI, used as the files they are.

The `light_*` files of the onnx package hold real networks whose weights are made by operators that fill constants.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.zoo_recipes import Feed, Recipe, audio, image

__all__ = ["recipes"]

_LIGHT = {
    "bvlc_alexnet": "data_0",
    "densenet121": "data_0",
    "inception_v1": "data_0",
    "inception_v2": "data_0",
    "resnet50": "gpu_0/data_0",
    "shufflenet": "gpu_0/data_0",
    "squeezenet": "data_0",
    "vgg19": "data_0",
    "zfnet512": "gpu_0/data_0",
}


def recipes() -> list[Recipe]:
    """All of them."""
    silero = "silero_vad/data/"
    state = {"input": audio(576), "state": _state}
    found = [
        _recipe("silero_vad_jit", silero + "silero_vad.jit", {"x": audio(512)}, "state is kept inside"),
        _recipe("silero_vad", silero + "silero_vad.onnx", {**state, "sr": _rate}, "state (2, N, 128), rate a scalar"),
        _recipe("silero_vad_sequence", silero + "silero_vad_16k_sequence.onnx", _SEQUENCE, "rows are steps of time"),
        _recipe("magika", "magika/models/standard_v3_3/model.onnx", {"bytes": _file_bytes}),
        _recipe("rapidocr_det", "rapidocr/models/PP-OCRv6_det_small.onnx", {"x": image(64, 96)}),
        _recipe("rapidocr_rec", "rapidocr/models/PP-OCRv6_rec_small.onnx", {"x": image(48, 96)}),
        _recipe("rapidocr_cls", "rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx", {"x": image(48, 192)}),
    ]
    light = [
        _recipe(f"light_{name}", f"onnx/backend/test/data/light/light_{name}.onnx", {entry: image(224)})
        for name, entry in _LIGHT.items()
    ]
    return [*found, *light]


def _recipe(name: str, file: str, feeds: dict[str, Feed], note: str = "") -> Recipe:
    return Recipe(f"shipped-{name}", "shipped", "file", _located(file), feeds, note)


def _located(file: str) -> Callable[[], Path]:
    def make() -> Path:
        package, _, rest = file.partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise FileNotFoundError(f"the package {package} is not installed")
        return Path(spec.origin).parent / rest

    return make


def _state(_: np.random.Generator, rows: int) -> Any:
    """The state at the beginning, as rows: (N, 2, 128); the model wants (2, N, 128)."""
    return np.zeros((rows, 2, 128), np.float32)


def _rate(_: np.random.Generator, rows: int) -> Any:
    """The sampling rate, the same in every row; the model wants a scalar."""
    return np.full(rows, 16_000, np.int64)


_SEQUENCE: dict[str, Feed] = {
    "input": audio(576),
    "h": lambda _, rows: np.zeros((rows, 1, 128), np.float32),
    "c": lambda _, rows: np.zeros((rows, 1, 128), np.float32),
}


def _file_bytes(generator: np.random.Generator, rows: int) -> Any:
    """Beginnings and ends of files as Magika reads them (N, 2048) int32: bytes, and 256 where the file is shorter."""
    text = generator.integers(32, 127, (rows, 2048))
    binary = generator.integers(0, 256, (rows, 2048))
    chosen = np.where(np.arange(rows)[:, None] % 2 == 0, text, binary)
    lengths = generator.integers(200, 1025, (rows, 1))
    place = np.arange(1024)
    beginning = np.where(place < lengths, chosen[:, :1024], 256)
    end = np.where(place >= 1024 - lengths, chosen[:, 1024:], 256)
    return np.concatenate([beginning, end], axis=1).astype(np.int32)
