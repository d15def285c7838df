"""Keras: every family of `keras.applications` with a variant below 25 million parameters, and layers of common use.

Widths and depths are reduced where the family's own constructor takes them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.zoo_recipes import Feed, Recipe, audio, channels_last, features, image, tokens, video

__all__ = ["LEFT_OUT", "recipes"]

_CLASSES = 10
LEFT_OUT = {"InceptionResNetV2": "no variant below 55 million parameters"}
"""Families of keras.applications that are not in the zoo."""


def recipes() -> list[Recipe]:
    """All of them."""
    return [*_applications(), *_own()]


def _recipe(name: str, make: Callable[[], Any], feeds: dict[str, Feed]) -> Recipe:
    return Recipe(f"keras-{name}", "keras", "keras", make, feeds)


def _applications() -> list[Recipe]:
    normalized = {"x": channels_last(image(64))}
    pixels = {"x": _pixels(64)}
    nasnet = {"penultimate_filters": 96, "num_blocks": 1, "stem_block_filters": 8, "filter_multiplier": 2}
    convnext = {"depths": (1, 1, 2, 1), "projection_dims": (24, 48, 64, 96)}
    vgg = {"include_top": False, "pooling": "avg"}
    small, smaller, odd = _sized(75), _sized(48), {"x": _pixels(65)}
    return [
        _recipe("convnext", _application("convnext:ConvNeXt", 64, **convnext), pixels),
        _recipe("densenet", _application("densenet:DenseNet", 64, blocks=[2, 2, 2, 2]), normalized),
        _recipe("efficientnet", _application("efficientnet:EfficientNetB0", 64), pixels),
        _recipe("efficientnet_v2", _application("efficientnet_v2:EfficientNetV2B0", 64), pixels),
        _recipe("inception_v3", _application("inception_v3:InceptionV3", 75), small),
        _recipe("mobilenet", _application("mobilenet:MobileNet", 64, alpha=0.25), normalized),
        _recipe("mobilenet_v2", _application("mobilenet_v2:MobileNetV2", 64, alpha=0.35), normalized),
        _recipe("mobilenet_v3", _application("mobilenet_v3:MobileNetV3Small", 65), odd),
        _recipe(
            "nasnet", _application("nasnet:NASNet", 64, skip_reduction=False, default_size=64, **nasnet), normalized
        ),
        _recipe("resnet", _resnet(False), normalized),
        _recipe("resnet_v2", _resnet(True), normalized),
        _recipe("vgg", _application("vgg16:VGG16", 48, **vgg), smaller),
        _recipe("xception", _application("xception:Xception", 71), _sized(71)),
    ]


def _sized(size: int) -> dict[str, Feed]:
    return {"x": channels_last(image(size))}


def _application(where: str, size: int, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        import importlib

        module, name = where.split(":")
        constructor = getattr(importlib.import_module(f"keras.src.applications.{module}"), name)
        return constructor(**{"weights": None, "input_shape": (size, size, 3), "classes": _CLASSES, **options})

    return make


def _resnet(preactivated: bool) -> Callable[[], Any]:
    def make() -> Any:
        from keras.src.applications import resnet

        stack = resnet.stack_residual_blocks_v2 if preactivated else resnet.stack_residual_blocks_v1

        def body(x: Any) -> Any:
            for i, width in enumerate((16, 32, 48, 64)):
                x = stack(x, width, 2, **({} if i else {"stride1": 1}), name=f"conv{i + 2}")
            return x

        options = {"weights": None, "input_shape": (64, 64, 3), "classes": _CLASSES}
        return resnet.ResNet(body, preactivated, True, name="resnet", weights_name=None, **options)

    return make


def _pixels(size: int) -> Feed:
    """Raw pixels 0-255 (N, H, W, 3) float32: these networks normalize inside."""
    feed = channels_last(image(size))
    return lambda generator, rows: np.clip(feed(generator, rows) * 55 + 110, 0, 255).round().astype(np.float32)


def _own() -> list[Recipe]:
    photographs = {"x": channels_last(image(32))}
    series = {"x": features(20, 8)}
    return [
        _recipe("same_padding", _network("same_padding"), photographs),
        _recipe("separable", _network("separable"), {"x": channels_last(image(31))}),
        _recipe("unet", _network("unet"), {"x": channels_last(image(48))}),
        _recipe("conv1d", _network("conv1d"), {"x": _last_axis(audio(800))}),
        _recipe("conv3d", _network("conv3d"), {"x": channels_last(video(1, 6, 16))}),
        _recipe("lstm", _network("lstm"), series),
        _recipe("gru_both_ways", _network("gru_both_ways"), series),
        _recipe("simple_rnn", _network("simple_rnn"), series),
        _recipe("text_attention", _network("text_attention"), {"ids": tokens(16, 200, padded=False)}),
        _recipe("shared_layers", _network("shared_layers"), {"left": features(12), "right": features(12)}),
        _recipe("two_outputs", _network("two_outputs"), {"picture": channels_last(image(32)), "table": features(5)}),
        _recipe("dense_table", _network("dense_table"), {"x": features(13)}),
    ]


def _network(name: str) -> Callable[[], Any]:
    def make() -> Any:
        from benchmarks.zoo_families import keras_networks

        return getattr(keras_networks, name)()

    return make


def _last_axis(feed: Feed) -> Feed:
    return lambda generator, rows: feed(generator, rows)[..., None]
