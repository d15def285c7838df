"""The child's side of iOS exports: coremltools, and only what it needs."""

import gc
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgewright.artifact import Precision
from edgewright.errors import UnsupportedError
from edgewright.export import mlpackage
from edgewright.export.refusal import unsupported_precision
from edgewright.export.weight_match import weights_of_layers

__all__ = ["convert", "coremltools_alone", "palettize", "quantize", "scores_output"]

_SHOWN = ("short_description", "author", "version")
# coremltools keeps tensors below 2,048 elements as they are; a model for small devices consists of such tensors.
_LEAST_QUANTIZED_ELEMENTS = 256
_PALETTE_BITS = (1, 2, 4, 6, 8)  # the widths that constexpr_lut_to_dense has
_INT4_BITS = 4
_WORTH_A_DECODER = 0.8  # of the plain size; above it the weight is left as it is


def convert(
    *,
    graph: str,
    inputs: list[dict[str, Any]],
    outputs: list[dict[str, Any]],
    compute: str,
    description: dict[str, str],
    path: str,
    pixels: dict[str, float] | None = None,
    labels: list[str] | None = None,
) -> None:
    """Torch graph to an ML program that computes in float32 or float16, tensors named as the source's.

    Args:
        graph: the torch graph's file.
        inputs: fields of `TensorSpec`, in the model's order.
        outputs: likewise.
        compute: ``float32`` or ``float16``.
        description: texts that Xcode shows.
        path: the package to write.
        pixels: ``scale`` and ``mean`` of ``(pixel - mean) * scale``, to type image inputs as images; None: tensors.
        labels: the class names, to make a classifier of it; None: scores as they are.
    """
    ct = coremltools_alone()
    import numpy as np
    import torch

    from edgewright.export.graph_input import example_inputs
    from edgewright.intake import torch_graph
    from edgewright.optimize.fuse import fuse

    # Folded here, since the converter keeps the weights that it folds.
    module = fuse(torch_graph.load(Path(graph)).eval())
    examples = example_inputs(inputs)
    # One run, for the sake of its graph: oneDNN would load its kernels for it and keep reordered weights.
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
        traced = torch.jit.trace(module, examples, check_trace=False)
    try:
        model = ct.convert(
            traced,
            inputs=[_input(ct, spec, example, pixels) for spec, example in zip(inputs, examples, strict=True)],
            outputs=[ct.TensorType(spec["name"], dtype=_stored(np.dtype(spec["dtype"]))) for spec in outputs],
            classifier_config=_classifier(ct, outputs, labels),
            convert_to="mlprogram",
            compute_precision=ct.precision.FLOAT32 if compute == Precision.FLOAT32 else ct.precision.FLOAT16,
            minimum_deployment_target=ct.target.iOS16,
            skip_model_load=True,
        )
    except NotImplementedError as e:
        raise UnsupportedError(f"Core ML: {str(e).splitlines()[0]}; try the platforms android or edge_device") from e
    # The program, the traced network and what the converter made of both hold the weights three times over.
    with tempfile.TemporaryDirectory(dir=Path(path).parent) as folder:
        plain = str(Path(folder) / "plain.mlpackage")
        model.save(plain)
        del model, traced, module
        gc.collect()
        model = _stored_without_loss(ct.models.MLModel(plain, skip_model_load=True))
        _describe(model, inputs, outputs, description)
        model.save(path)
    mlpackage.make_reproducible(Path(path))


def quantize(source: str, name: str, path: str, graph: str = "", float_layers: Sequence[str] = ()) -> None:
    """An ML program with its weights in 8 bits: linear, symmetric, one scale per output channel; those of the
    ``float_layers`` of the torch graph stay as they are.

    Raises:
        UnsupportedError: it holds no weight large enough.
    """
    ct = coremltools_alone()
    import coremltools.optimize.coreml as compression

    model = ct.models.MLModel(source, skip_model_load=True)
    config = compression.OpLinearQuantizerConfig(
        mode="linear_symmetric", dtype="int8", weight_threshold=_LEAST_QUANTIZED_ELEMENTS
    )
    kept: dict[str, None] = {}
    if float_layers:
        weights = compression.get_weights_metadata(model, weight_threshold=0)
        values = {at: weight.val for at, weight in weights.items()}
        found = weights_of_layers(Path(graph), float_layers, values)
        kept = dict.fromkeys(set().union(*found.values()))
    choices = compression.OptimizationConfig(global_config=config, op_name_configs=kept)
    compression.linear_quantize_weights(model, choices).save(path)
    mlpackage.make_reproducible(Path(path))
    if "constexpr_affine_dequantize" not in mlpackage.operators(Path(path)):
        raise unsupported_precision(
            name, Precision.INT8, f"no weight has more than {_LEAST_QUANTIZED_ELEMENTS} elements"
        )


def palettize(source: str, name: str, path: str) -> None:
    """An ML program with each weight in 4 bits: an index into the 16 values of its tensor that fit it best.

    iOS 16 has no linear 4-bit weights; a palette of 16 values takes the same size.

    Raises:
        UnsupportedError: it holds no weight large enough.
    """
    ct = coremltools_alone()
    import coremltools.optimize.coreml as compression

    model = ct.models.MLModel(source, skip_model_load=True)
    config = compression.OpPalettizerConfig(
        mode="custom", lut_function=_best_palette, weight_threshold=_LEAST_QUANTIZED_ELEMENTS
    )
    compression.palettize_weights(model, compression.OptimizationConfig(global_config=config)).save(path)
    mlpackage.make_reproducible(Path(path))
    if "constexpr_lut_to_dense" not in mlpackage.operators(Path(path)):
        raise unsupported_precision(
            name, Precision.INT4, f"no weight has more than {_LEAST_QUANTIZED_ELEMENTS} elements"
        )


def _best_palette(weight: Any) -> tuple[Any, Any]:
    """The 16 values of least squared error to a weight, and the index of each element."""
    import numpy as np

    from edgewright.optimize.kmeans import codebook

    book = codebook(weight.astype(np.float32).reshape(-1), 2**_INT4_BITS)
    indices = np.searchsorted((book[1:] + book[:-1]) / 2, weight.astype(np.float32))
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
    import coremltools.optimize.coreml as compression

    weights = compression.get_weights_metadata(model, weight_threshold=_LEAST_QUANTIZED_ELEMENTS)
    palettes: list[str] = []
    sparse: list[str] = []
    for name, weight in weights.items():
        # One value alone needs no palette, and coremltools writes none for it.
        bits = next((n for n in _PALETTE_BITS if 2 <= weight.unique_values <= 2**n), None)
        of_sparse = (1 - weight.sparsity) + 1 / (8 * weight.val.dtype.itemsize)
        of_palette = bits / (8 * weight.val.dtype.itemsize) + 2**bits / weight.val.size if bits else 1.0
        if min(of_sparse, of_palette) < _WORTH_A_DECODER:
            (palettes if of_palette <= of_sparse else sparse).append(name)
    return palettes, sparse


def _palette_of(weight: Any) -> tuple[Any, Any]:
    """The values of a weight, padded to a size that iOS 16's look-up tables have, and the index of each element."""
    import numpy as np

    values, indices = np.unique(weight, return_inverse=True)
    bits = next(n for n in _PALETTE_BITS if len(values) <= 2**n)
    palette = np.pad(values, (0, 2**bits - len(values)), mode="edge")
    return palette, indices.reshape(weight.shape).astype(np.uint8)


def coremltools_alone() -> Any:
    """Import coremltools without the frameworks that it looks for: 3 s instead of 10, a third of the memory."""
    for unneeded in ("tensorflow", "sklearn", "xgboost", "libsvm"):
        sys.modules.setdefault(unneeded, None)  # type: ignore[arg-type]
    import coremltools

    return coremltools


def _input(ct: Any, spec: dict[str, Any], example: Any, pixels: dict[str, float] | None) -> Any:
    import numpy as np

    shape = tuple(example.shape)
    if pixels is None:
        return ct.TensorType(spec["name"], shape=shape, dtype=_stored(np.dtype(spec["dtype"])))
    channels = shape[1] if len(shape) == 4 else 0
    if channels not in {1, 3}:
        raise UnsupportedError(f"input '{spec['name']}' of shape {shape} is no image (1, 1 or 3, height, width)")
    layout = ct.colorlayout.RGB if channels == 3 else ct.colorlayout.GRAYSCALE
    bias = [-pixels["mean"] * pixels["scale"]] * channels
    return ct.ImageType(
        spec["name"], shape=shape, scale=pixels["scale"], bias=bias if channels == 3 else bias[0], color_layout=layout
    )


def _classifier(ct: Any, outputs: list[dict[str, Any]], labels: list[str] | None) -> Any:
    if labels is None:
        return None
    return ct.ClassifierConfig(labels, predicted_probabilities_output=scores_output(outputs, labels))


def scores_output(outputs: list[dict[str, Any]], labels: list[str]) -> str:
    """The output that holds one score a class.

    Raises:
        UnsupportedError: none does.
    """
    for spec in outputs:
        if len(spec["shape"]) == 2 and spec["shape"][1] == len(labels) and spec["dtype"].startswith("float"):
            return str(spec["name"])
    raise UnsupportedError(f"no output holds a score for each of the {len(labels)} classes; leave class_labels off")


def _stored(dtype: Any) -> Any:
    """Core ML has float32 and int32 inputs; wider ones are narrowed as its own converter does."""
    import numpy as np

    return np.int32 if np.issubdtype(dtype, np.integer) else np.float32


def _describe(
    model: Any, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]], description: dict[str, str]
) -> None:
    for key in _SHOWN:
        setattr(model, key, description[key])
    for key, text in description.items():
        if key not in _SHOWN:
            model.user_defined_metadata[f"edgewright.{key}"] = text
    for spec in inputs:
        model.input_description[spec["name"]] = f"{spec['dtype']} {_shape(spec)}"
    classes = f" of the classes {description['classes']}" if "classes" in description else ""
    given = set(model.output_description)
    for spec in outputs:
        if spec["name"] not in given:  # a classifier's scores: Core ML describes its own outputs
            continue
        model.output_description[spec["name"]] = f"{spec['dtype']} {_shape(spec)}{classes}"


def _shape(spec: dict[str, Any]) -> str:
    return "x".join(str(max(n, 1)) for n in spec["shape"])
