"""The child's side of iOS exports: coremltools, and only what it needs."""

import gc
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.artifact import Precision
from edgewright.errors import UnsupportedError
from edgewright.export import mlpackage
from edgewright.export.coreml_weights import weights_of_program
from edgewright.export.int8 import Int8
from edgewright.export.refusal import other_ways, unsupported_precision
from edgewright.export.small_constants import is_lost_guard
from edgewright.export.weight_match import weights_of_layers
from edgewright.export.whole_numbers import PASSING
from edgewright.failures import one_line
from edgewright_runtime.bundle.manifest import TensorSpec

__all__ = ["convert", "coremltools_alone", "finish", "palettize", "quantize", "scores_output", "tensor_type"]

_SHOWN = ("short_description", "author", "version")
# coremltools keeps tensors below 2,048 elements as they are; a model for small devices consists of such tensors.
_MIN_QUANTIZED_ELEMENTS = 256
_OWN_MIN_QUANTIZED = 2048
_WORTH_QUANTIZING = 0.05  # of all numbers
_PALETTE_BITS = (1, 2, 4, 6, 8)  # the widths that constexpr_lut_to_dense has
_INT4_BITS = 4
_WORTH_A_DECODER = 0.8  # of the plain size; above it the weight is left as it is


def convert(
    *,
    graph: Path,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    compute: Precision,
    description: dict[str, str],
    path: Path,
    pixels: dict[str, float] | None = None,
    labels: Sequence[str] | None = None,
    float_values: Sequence[str] = (),
) -> None:
    """Torch graph to an ML program that computes in float32 or float16, tensors named as the source's.

    Args:
        graph: the torch graph's file.
        inputs: in the model's order.
        outputs: likewise.
        compute: ``float32`` or ``float16``.
        description: texts that Xcode shows.
        path: the package to write.
        pixels: ``scale`` and ``mean`` of ``(pixel - mean) * scale``, to type image inputs as images; None: tensors.
        labels: the class names, to make a classifier of it; None: scores as they are.
        float_values: names of values that stay float32 in a program that computes in float16.
    """
    ct = coremltools_alone()
    import torch

    from edgewright.export.coreml_graph import graph_for_coreml
    from edgewright.export.coreml_operators import convert_exactly
    from edgewright.export.graph_input import example_inputs
    from edgewright.export.masks import bound_masks
    from edgewright.intake import torch_graph
    from edgewright.optimize.fuse import fuse

    convert_exactly()
    examples = example_inputs(inputs)
    # BatchNorm is folded here, since the converter keeps the weights that it folds.
    fused = fuse(torch_graph.load(graph).eval())
    is_half = compute != Precision.FLOAT32
    # The least float32 is minus infinity in half precision, and a row that is masked whole NaN.
    masks = bound_masks(fused) if is_half else ""
    module = graph_for_coreml(fused, examples)
    # One run, for the sake of its graph: oneDNN would load its kernels for it and keep reordered weights.
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
        traced = torch.jit.trace(module, examples, check_trace=False)
    try:
        model = ct.convert(
            traced,
            inputs=[
                _input(ct, spec, tuple(example.shape), pixels) for spec, example in zip(inputs, examples, strict=True)
            ],
            outputs=[tensor_type(ct, spec) for spec in outputs],
            classifier_config=_classifier(ct, outputs, labels),
            convert_to="mlprogram",
            compute_precision=half_but(ct, frozenset(float_values)) if is_half else ct.precision.FLOAT32,
            minimum_deployment_target=ct.target.iOS16,
            skip_model_load=True,
        )
    except NotImplementedError as e:
        raise UnsupportedError(f"Core ML: {one_line(e, 200)}; {other_ways('android', 'edge_device')}") from e
    # Beside the result, since a confined child writes nowhere else.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        plain = Path(folder) / "plain.mlpackage"
        model.save(str(plain))
        # The program, the traced network and what the converter made of both hold the weights three times over.
        del model, traced, module, fused
        gc.collect()
        texts = description | ({"masks": masks} if masks else {})
        finish(plain, inputs, outputs, texts, path)


def finish(
    plain: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], description: dict[str, str], path: Path
) -> None:
    """A converted package with its weights stored as small as they are, described, and the same bytes each time."""
    ct = coremltools_alone()
    model = _stored_without_loss(ct.models.MLModel(str(plain), skip_model_load=True))
    _describe(model, inputs, outputs, description)
    model.save(str(path))
    mlpackage.make_reproducible(path)


def half_but(ct: Any, float_values: frozenset[str]) -> Any:
    """Half precision, left out the operators that give one of these values, numbers that become whole ones, or what
    half precision does not keep from zero (see `edgewright.export.whole_numbers`, `edgewright.export.small_constants`).
    """
    known: dict[Any, bool] = {}

    def becomes_whole(operator: Any) -> bool:
        # With a list of its own, since a recurrent layer is a chain longer than Python's stack is deep.
        pending = [] if operator in known else [operator]
        while pending:
            current = pending[-1]
            readers = [r for value in current.outputs for r in value.child_ops]
            casts = [reader for reader in readers if reader.op_type == "cast"]
            others = [reader for reader in readers if reader.op_type != "cast"]
            if current.op_type.upper() not in PASSING:
                known[current] = False
            elif any(cast.dtype.val.startswith(("int", "uint")) for cast in casts):
                known[current] = True
            elif unknown := [reader for reader in others if reader not in known]:
                pending += unknown
                continue
            else:
                known[current] = any(known[reader] for reader in others)
            pending.pop()
        return known[operator]

    def is_half(operator: Any) -> bool:
        if becomes_whole(operator) or _guards(operator) or any(_guards(giver, operator) for giver in _givers(operator)):
            return False
        # Of a model's output the value bears the output's name, and the half that is cast to it the operator's.
        names = (operator.name, *(value.name for value in operator.outputs))
        return not any(_saved_name(name) in float_values for name in names)

    return ct.transform.FP16ComputePrecision(op_selector=is_half)


def _givers(operator: Any) -> list[Any]:
    """What gives an operator its operand."""
    operand = operator.inputs.get("x")
    return [operand.op] if getattr(operand, "op", None) is not None else []


def _guards(operator: Any, reader: Any = None) -> bool:
    """Whether an operator keeps the reader, or some reader, from zero by a constant that half precision loses."""
    readers = [reader] if reader is not None else [r for value in operator.outputs for r in value.child_ops]
    held = [getattr(value, "val", None) for value in operator.inputs.values()]
    constants = [np.asarray(value) for value in held if isinstance(value, (float, np.ndarray, np.floating))]
    return any(operator in _givers(r) and is_lost_guard(operator.op_type, constants, r.op_type) for r in readers)


def _saved_name(name: str) -> str:
    """What coremltools makes of a value's name when it writes the program (``NameSanitizer`` of its passes)."""
    plain = re.sub("[^a-zA-Z0-9_]", "_", name)
    return plain if re.match("[a-zA-Z]", plain) else f"var_{plain.removeprefix('_')}"


def quantize(
    source: Path,
    name: str,
    path: Path,
    how: Int8 = Int8(),  # noqa: B008 - frozen
    float_values: Sequence[str] = (),
) -> None:
    """An ML program with its weights in 8 bits: linear, symmetric, one scale per output channel; those of the
    layers of the torch graph that stay float, and of the operators that give ``float_values``, stay as they are, and
    small ones where they are few.

    Raises:
        UnsupportedError: it holds no weight large enough.
    """
    ct = coremltools_alone()
    import coremltools.optimize.coreml as compression

    model = ct.models.MLModel(str(source), skip_model_load=True)
    config = compression.OpLinearQuantizerConfig(
        mode="linear_symmetric", dtype="int8", weight_threshold=_min_quantized(model)
    )
    plain = _weights_of(model, float_values)
    if how.graph is not None and (how.float_layers or how.noisy_layers):
        values = {at: weight.value for at, weight in weights_of_program(model).items()}
        # Layers are known by the values of their weights: converters rename both.
        plain |= set().union(*weights_of_layers(how.graph, how.float_layers, values, how.noisy_layers).values())
    # None as a weight's configuration leaves it as it is; sorted, so that the same input gives the same file.
    choices = compression.OptimizationConfig(global_config=config, op_name_configs=dict.fromkeys(sorted(plain)))
    compression.linear_quantize_weights(model, choices).save(str(path))
    mlpackage.make_reproducible(path)
    # coremltools passes over weights below the threshold without a word.
    if "constexpr_affine_dequantize" not in mlpackage.operators(path):
        raise unsupported_precision(name, Precision.INT8, f"no weight has more than {_MIN_QUANTIZED_ELEMENTS} elements")


def _min_quantized(model: Any) -> int:
    """How many elements a weight must have: small ones, as those of depthwise convolutions, lose most in 8 bits and
    hardly count in the file.
    """
    sizes = [weight.value.size for weight in weights_of_program(model, least=_MIN_QUANTIZED_ELEMENTS).values()]
    small = sum(size for size in sizes if size < _OWN_MIN_QUANTIZED)
    return _OWN_MIN_QUANTIZED if small < _WORTH_QUANTIZING * sum(sizes) else _MIN_QUANTIZED_ELEMENTS


def _weights_of(model: Any, float_values: Sequence[str]) -> set[str]:
    """The names of the weights of the operators that give one of these values, in float32 or cast from half."""
    named = {f"{name}{added}" for name in float_values for added in ("", "_cast_fp16")}
    weights = weights_of_program(model) if float_values else {}
    return {at for at, weight in weights.items() if named & set(weight.readers)}


def palettize(source: Path, name: str, path: Path, float_values: Sequence[str] = ()) -> None:
    """An ML program with each weight in 4 bits: an index into the 16 values of its tensor that fit it best; those of
    the operators that give ``float_values`` stay as they are.

    iOS 16 has no linear 4-bit weights; a palette of 16 values takes the same size.

    Raises:
        UnsupportedError: it holds no weight large enough.
    """
    ct = coremltools_alone()
    import coremltools.optimize.coreml as compression

    model = ct.models.MLModel(str(source), skip_model_load=True)
    config = compression.OpPalettizerConfig(
        mode="custom", lut_function=_best_palette, weight_threshold=_MIN_QUANTIZED_ELEMENTS
    )
    plain = dict.fromkeys(sorted(_weights_of(model, float_values)))
    choices = compression.OptimizationConfig(global_config=config, op_name_configs=plain)
    compression.palettize_weights(model, choices).save(str(path))
    mlpackage.make_reproducible(path)
    if "constexpr_lut_to_dense" not in mlpackage.operators(path):
        raise unsupported_precision(name, Precision.INT4, f"no weight has more than {_MIN_QUANTIZED_ELEMENTS} elements")


def _best_palette(weight: Any) -> tuple[Any, Any]:
    """The 16 values of least squared error to a weight, and the index of each element."""
    import numpy as np

    from edgewright.optimize.kmeans import codebook

    book = codebook(weight.astype(np.float32).reshape(-1), 2**_INT4_BITS)
    # The book ascends, so midpoints between its values are where the nearer one changes.
    indices = np.searchsorted((book[1:] + book[:-1]) / 2, weight.astype(np.float32))
    # iOS 16's look-up tables have 2**bits entries exactly; no index points to those that are added.
    palette = np.pad(book, (0, 2**_INT4_BITS - len(book)), mode="edge").astype(weight.dtype)
    return palette, indices.astype(np.uint8)


def _stored_without_loss(model: Any) -> Any:
    """Weights that share few values become a palette, those with many zeros a bit mask and the rest.

    What clustering and pruning made of them would else take full size on the device; the numbers stay the same.
    """
    import coremltools.optimize.coreml as compression

    palettes, sparse = _worth_a_decoder(model)
    if palettes:
        by_palette = compression.OpPalettizerConfig(mode="custom", lut_function=_palette_of, weight_threshold=0)
        config = compression.OptimizationConfig(op_name_configs=dict.fromkeys(palettes, by_palette))
        model = compression.palettize_weights(model, config)
    if sparse:
        by_mask = compression.OpThresholdPrunerConfig(
            threshold=0.0, minimum_sparsity_percentile=0.0, weight_threshold=0
        )
        config = compression.OptimizationConfig(op_name_configs=dict.fromkeys(sparse, by_mask))
        model = compression.prune_weights(model, config)
    return model


def _worth_a_decoder(model: Any) -> tuple[list[str], list[str]]:
    """The names of the weights that a palette makes clearly smaller, and of those that a bit mask does."""
    import numpy as np

    palettes: list[str] = []
    sparse: list[str] = []
    for name, weight in weights_of_program(model, _MIN_QUANTIZED_ELEMENTS).items():
        value, values, zeros = weight.value, len(np.unique(weight.value)), float(np.mean(weight.value == 0))
        # One value alone needs no palette, and coremltools writes none for it.
        bits = next((n for n in _PALETTE_BITS if 2 <= values <= 2**n), None)
        # Of the plain size: what is not zero and a bit an element; or an index an element and the table.
        of_sparse = (1 - zeros) + 1 / (8 * value.dtype.itemsize)
        of_palette = bits / (8 * value.dtype.itemsize) + 2**bits / value.size if bits else 1.0
        if min(of_sparse, of_palette) < _WORTH_A_DECODER:
            (palettes if of_palette <= of_sparse else sparse).append(name)
    return palettes, sparse


def _palette_of(weight: Any) -> tuple[Any, Any]:
    """The values of a weight, padded to a size that iOS 16's look-up tables have, and the index of each element."""
    import numpy as np

    values, indices = np.unique(weight, return_inverse=True)
    bits = next(n for n in _PALETTE_BITS if len(values) <= 2**n)
    palette = np.pad(values, (0, 2**bits - len(values)), mode="edge")
    # NumPy gives the inverse flat or in the weight's shape, depending on its version.
    return palette, indices.reshape(weight.shape).astype(np.uint8)


def coremltools_alone() -> Any:
    """Import coremltools without the frameworks that it looks for: 3 s instead of 10, a third of the memory."""
    # None makes the import fail at once, which coremltools takes for a framework that is not installed.
    for unneeded in ("tensorflow", "sklearn", "xgboost", "libsvm", "torchao"):
        sys.modules.setdefault(unneeded, None)  # type: ignore[arg-type]
    import coremltools

    return coremltools


def tensor_type(ct: Any, spec: TensorSpec, shape: tuple[int, ...] | None = None) -> Any:
    """A tensor by its name, in the width that Core ML has for its dtype; an input with its shape."""
    import numpy as np

    return ct.TensorType(spec.name, shape=shape, dtype=_stored(np.dtype(spec.dtype)))


def _input(ct: Any, spec: TensorSpec, shape: tuple[int, ...], pixels: dict[str, float] | None) -> Any:
    if pixels is None:
        return tensor_type(ct, spec, shape)
    channels = shape[1] if len(shape) == 4 else 0
    if channels not in {1, 3}:
        raise UnsupportedError(f"input '{spec.name}' of shape {shape} is not an image (1, 1 or 3, height, width)")
    layout = ct.colorlayout.RGB if channels == 3 else ct.colorlayout.GRAYSCALE
    # (pixel - mean) * scale, as the pixel * scale + bias of an image type.
    bias = [-pixels["mean"] * pixels["scale"]] * channels
    return ct.ImageType(
        spec.name, shape=shape, scale=pixels["scale"], bias=bias if channels == 3 else bias[0], color_layout=layout
    )


def _classifier(ct: Any, outputs: Sequence[TensorSpec], labels: Sequence[str] | None) -> Any:
    if labels is None:
        return None
    return ct.ClassifierConfig(list(labels), predicted_probabilities_output=scores_output(outputs, labels))


def scores_output(outputs: Sequence[TensorSpec], labels: Sequence[str]) -> str:
    """The output that holds one score a class.

    Raises:
        UnsupportedError: none does.
    """
    for spec in outputs:
        if len(spec.shape) == 2 and spec.shape[1] == len(labels) and spec.dtype.startswith("float"):
            return spec.name
    raise UnsupportedError(f"no output holds a score for each of the {len(labels)} classes; leave class_labels off")


def _stored(dtype: Any) -> Any:
    """Core ML has float32 and int32 inputs; wider ones are narrowed as its own converter does."""
    import numpy as np

    return np.int32 if np.issubdtype(dtype, np.integer) else np.float32


def _describe(
    model: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], description: dict[str, str]
) -> None:
    for key in _SHOWN:
        setattr(model, key, description[key])
    for key, text in description.items():
        if key not in _SHOWN:
            model.user_defined_metadata[f"edgewright.{key}"] = text
    for spec in inputs:
        model.input_description[spec.name] = f"{spec.dtype} {_shape(spec)}"
    classes = f" of the classes {description['classes']}" if "classes" in description else ""
    given = set(model.output_description)
    for spec in outputs:
        if spec.name not in given:  # a classifier's scores: Core ML describes its own outputs
            continue
        model.output_description[spec.name] = f"{spec.dtype} {_shape(spec)}{classes}"


def _shape(spec: TensorSpec) -> str:
    return "x".join(str(max(n, 1)) for n in spec.shape)
