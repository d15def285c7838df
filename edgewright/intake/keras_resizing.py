"""TensorFlow's ways of resizing that ONNX lacks or computes otherwise, as a product with a matrix or a choice of places
for each axis.

TensorFlow itself gives the matrices, asked to resize the rows of a unit matrix, and the places, asked to resize their
numbers. Runs in the child process that loaded the model.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["RESIZERS", "check_resizing"]

_OF_KERAS_2_ALONE = ("gaussian", "mitchellcubic")


def check_resizing(model: Any, version: str) -> None:
    """Nothing, of a model whose layers resize in ways that Keras 3 computes.

    Raises:
        ValueError: names the layer; a file of Keras 2 may still be read by the loader of its time.
    """
    for layer in model._flatten_layers():
        way = getattr(layer, "interpolation", None)
        if way in _OF_KERAS_2_ALONE:
            raise ValueError(
                f"layer '{layer.name}' resizes by '{way}', which Keras {version} does not compute: set its "
                "interpolation to bicubic, bilinear, nearest, area, lanczos3 or lanczos5 and save the model anew"
            )


def _resized(context: Any, node: Any, _name: str, _args: Any) -> None:
    """Images (N, H, W, C) to (N, height, width, C) float32."""
    rows, columns = context.get_shape(node.input[0])[1:3]
    if min(rows, columns) < 1 or not node.inputs[1].is_const():
        raise ValueError(
            "resizes images whose height or width is free, or computed as pad_to_aspect_ratio does; give the model's "
            "input a fixed height and width, and resize without pad_to_aspect_ratio or crop_to_aspect_ratio"
        )
    options = [_option(given, (rows, columns), node) for given in node.inputs[1:]]
    upright, across = (_matrix(node, options, axis, length) for axis, length in enumerate((rows, columns)))
    shape, dtype = context.get_shape(node.output[0]), context.get_dtype(node.output[0])
    given, result, name = node.input[0], node.output[0], node.name
    context.remove_node(name)
    value = context.make_node("Cast", [given], attr={"to": 1}).output[0]
    # A product takes the last two axes, (columns, channels); for the rows they change places with the columns.
    for suffix, matrix, order in (("columns", across, None), ("rows", upright, [0, 2, 1, 3])):
        held = context.make_const(f"{name}_{suffix}", matrix).output[0]
        if order:
            value = context.make_node("Transpose", [value], attr={"perm": order}).output[0]
        value = context.make_node("MatMul", [held, value]).output[0]
        if order:
            value = context.make_node("Transpose", [value], attr={"perm": order}).output[0]
    context.make_node("Identity", [value], outputs=[result], shapes=[shape], dtypes=[dtype])


def _bilinear(context: Any, node: Any, _name: str, args: Any) -> None:
    """Images (N, H, W, C), by scales that give the size; of those of tf2onnx, float32 may make one that is less by one.

    By the size itself, for two axes of the four, ONNX Runtime 1.32 fails where it moves a transposition.
    """
    from tf2onnx.onnx_opset.nn import Resize

    is_fixed, size, result = _is_fixed(context, node), node.inputs[1], node.output[0]
    lengths = context.get_shape(node.input[0])[1:3]
    Resize.version_11(context, node, **(args or {}))
    if is_fixed:
        written = context.get_node_by_output(context.get_node_by_output(result).input[0])
        scales = [1.0, 1.0, *(_scale(*pair) for pair in zip(lengths, size.get_tensor_value(), strict=True))]
        held = context.make_const(f"{written.name}_scales", np.array(scales, np.float32))
        context.replace_inputs(written, [*written.input[:2], held.output[0]])


def _scale(length: int, goal: int) -> np.float32:
    """The least float32 from their ratio on by which the length becomes that long, rounded down.

    In float64, in which shapes are inferred; ONNX Runtime, in float32, then rounds the product to no less.
    """
    scale = np.float32(goal / length)
    while length * float(scale) < goal:
        scale = np.nextafter(scale, np.float32(np.inf))
    return scale


def _nearest(context: Any, node: Any, name: str, args: Any) -> None:
    """Images (N, H, W, C): the places that TensorFlow takes. ONNX's rule for them, from a scale in float32, takes
    others where a place lies between two."""
    if not _is_fixed(context, node):
        _bilinear(context, node, name, args)
        return
    import tensorflow as tf

    shape, dtype, size = context.get_shape(node.output[0]), context.get_dtype(node.output[0]), node.inputs[1]
    value, result = node.input[0], node.output[0]
    settings = {key: bool(node.get_attr_value(key)) for key in ("align_corners", "half_pixel_centers")}
    lengths, goal = context.get_shape(value)[1:3], np.asarray(size.get_tensor_value(as_list=False))
    context.remove_node(node.name)
    for axis, length in enumerate(lengths):
        line = np.arange(length, dtype=np.float32).reshape([1, *(length if axis == a else 1 for a in (0, 1)), 1])
        wanted = [int(goal[a]) if axis == a else 1 for a in (0, 1)]
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            places = session.run(tf.raw_ops.ResizeNearestNeighbor(images=line, size=wanted, **settings))
        if not np.array_equal(places.reshape(-1), np.arange(length)):
            held = context.make_const(f"{node.name}_places_{axis}", places.reshape(-1).astype(np.int64))
            value = context.make_node("Gather", [value, held.output[0]], attr={"axis": axis + 1}).output[0]
    context.make_node("Identity", [value], outputs=[result], shapes=[shape], dtypes=[dtype])


def _is_fixed(context: Any, node: Any) -> bool:
    """Whether heights and widths are known, before and after."""
    return min(context.get_shape(node.input[0])[1:3]) > 0 and bool(node.inputs[1].is_const())


def _option(given: Any, lengths: tuple[int, int], node: Any) -> NDArray[Any]:
    """Size, scale or translation; a scale that the graph computes is the new size by the old."""
    if given.is_const():
        return np.asarray(given.get_tensor_value(as_list=False))
    size = np.asarray(node.inputs[1].get_tensor_value(as_list=False))
    return np.asarray(size / np.array(lengths), np.float32)


def _matrix(node: Any, options: list[NDArray[Any]], axis: int, length: int) -> NDArray[np.float32]:
    """(new length, length): what each new place takes of each old one along an axis, 0 for height or 1 for width."""
    import tensorflow as tf

    rest = 1 - axis
    of_axis = [np.array(option) for option in options]
    of_axis[0][rest] = 1  # the other axis has one place, and keeps it
    for option, neutral in zip(of_axis[1:], (1.0, 0.0), strict=False):  # scale and translation
        option[rest] = neutral
    units = np.eye(length, dtype=np.float32)  # one channel for each place
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        resized = _CALLS[node.type](tf.raw_ops, node, np.expand_dims(units, (0, 1 + rest)), of_axis)
        weights: NDArray[np.float32] = session.run(resized)
    return weights.reshape(-1, length)


def _bicubic(ops: Any, node: Any, images: NDArray[Any], options: list[NDArray[Any]]) -> Any:
    centers = bool(node.get_attr_value("half_pixel_centers"))
    aligned = bool(node.get_attr_value("align_corners"))
    return ops.ResizeBicubic(images=images, size=options[0], align_corners=aligned, half_pixel_centers=centers)


def _area(ops: Any, node: Any, images: NDArray[Any], options: list[NDArray[Any]]) -> Any:
    return ops.ResizeArea(images=images, size=options[0], align_corners=bool(node.get_attr_value("align_corners")))


def _by_kernel(ops: Any, node: Any, images: NDArray[Any], options: list[NDArray[Any]]) -> Any:
    size, scale, translation = options
    return ops.ScaleAndTranslate(
        images=images,
        size=size,
        scale=scale,
        translation=translation,
        kernel_type=node.get_attr_str("kernel_type"),
        antialias=bool(node.get_attr_value("antialias")),
    )


_CALLS = {"ResizeBicubic": _bicubic, "ResizeArea": _area, "ScaleAndTranslate": _by_kernel}
RESIZERS = {
    **{kind: (_resized, list[str]()) for kind in _CALLS},
    "ResizeBilinear": (_bilinear, list[str]()),
    "ResizeNearestNeighbor": (_nearest, list[str]()),
}
"""Handlers for tf2onnx."""
