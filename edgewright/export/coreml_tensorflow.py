"""The child's side of iOS exports of Keras and SavedModel sources without a torch graph, by coremltools."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgewright.artifact import Precision
from edgewright.errors import UnsupportedError
from edgewright.export.coreml import finish, half_but, tensor_type
from edgewright.export.tensorflow_source import TensorFlowSource, loaded_source, of_one_row, refused
from edgewright.failures import one_line
from edgewright_runtime.bundle.manifest import TensorSpec

__all__ = ["convert"]


def convert(
    *,
    source: TensorFlowSource,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    compute: Precision,
    description: dict[str, str],
    path: Path,
    pixels: dict[str, float] | None = None,
    labels: Sequence[str] | None = None,
    float_values: Sequence[str] = (),
) -> None:
    """The source to an ML program, as `edgewright.export.coreml.convert` makes one of the torch graph.

    Raises:
        UnsupportedError: image inputs or class labels are asked for, or coremltools lacks an operator; names it.
        ConversionError: coremltools fails otherwise.
    """
    if pixels is not None or labels is not None:
        option = "image_inputs" if pixels is not None else "class_labels"
        raise UnsupportedError(f"Core ML from TensorFlow has no {option} here: leave it out of the device's export")
    # Not `coremltools_alone`, which would keep TensorFlow from being imported.
    import coremltools as ct

    _know_erfc()
    loaded = loaded_source(source)
    function = of_one_row(loaded, [spec.name for spec in inputs], without_loops=True).get_concrete_function()
    # coremltools calls an output by the operation that gives it; the source's names come back at the end.
    ends = [tensor.op.name for tensor in function.outputs]
    try:
        model = ct.convert(
            [function],
            source="tensorflow",
            inputs=[tensor_type(ct, spec, (1, *spec.shape[1:])) for spec in inputs],
            outputs=[tensor_type(ct, replace(spec, name=end)) for spec, end in zip(outputs, ends, strict=True)],
            convert_to="mlprogram",
            compute_precision=ct.precision.FLOAT32
            if compute == Precision.FLOAT32
            else half_but(ct, frozenset(float_values)),
            minimum_deployment_target=ct.target.iOS16,
            skip_model_load=True,
        )
    except NotImplementedError as e:
        raise UnsupportedError(f"Core ML from TensorFlow: {one_line(e, 200)}") from e
    except Exception as e:  # coremltools raises whatever it meets
        raise refused("Core ML from TensorFlow", e) from e
    specification = model.get_spec()
    for end, spec in zip(ends, outputs, strict=True):
        ct.utils.rename_feature(specification, end, spec.name)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        plain = Path(folder) / "plain.mlpackage"
        ct.models.MLModel(specification, weights_dir=model.weights_dir, skip_model_load=True).save(str(plain))
        finish(plain, inputs, outputs, description, path)


def _know_erfc() -> None:
    """1 - erf(x), of which Keras's gelu is made; coremltools has no form of it."""
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.frontend.tensorflow.tf_op_registry import register_tf_op

    def Erfc(context: Any, node: Any) -> None:  # noqa: N802 - registered under the operator's own name
        context.add(node.name, Builder.sub(x=1.0, y=Builder.erf(x=context[node.inputs[0]]), name=node.name))

    register_tf_op(override=True)(Erfc)
