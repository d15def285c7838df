"""What an exported file declares, and the rule that it must answer as the model it was made of."""

from dataclasses import dataclass

from edgewright.artifact import Artifact, Dataset, ImportedModel, Precision
from edgewright.export.converter import convert_in_child
from edgewright_runtime.manifest import TensorSpec

__all__ = ["PARITY_LIMITS", "Declared", "checked"]

# Largest difference over the output's largest magnitude. int8 is judged by its accuracy, on the test rows.
PARITY_LIMITS = {Precision.FLOAT32: 1e-4, Precision.FLOAT16: 1e-2}


@dataclass(frozen=True)
class Declared:
    """Inputs and outputs of a file; ``runtime_floor`` where the file decides which runtime loads it."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    runtime_floor: str | None
    notes: tuple[str, ...]


def checked(model: ImportedModel, exported: Artifact, dataset: Dataset, precision: Precision) -> Declared:
    """Read an exported file's tensors, and compare a float file with its model on real rows.

    The reference is the imported ONNX, which the door compared with the source in its own framework; where the
    network was changed since, it is the changed torch graph.

    Raises:
        ConversionError: the file's outputs are farther off than `PARITY_LIMITS`; names the first layer that differs.
    """
    untouched = model.graph is None or model.graph.parent == model.onnx.digest
    reference = model.onnx if untouched or model.graph is None else model.graph
    arguments = {
        "reference": {"path": str(reference.path), "format": reference.format.value},
        "exported": {"path": str(exported.path), "format": exported.format.value},
        "dataset": str(dataset.artifact.path),
        "inputs": [spec.name for spec in model.inputs],
        "outputs": [spec.name for spec in model.outputs],
        "limit": PARITY_LIMITS.get(precision),
        "has_thresholds": model.float32_only,
    }
    answer = convert_in_child(
        "edgewright.export.parity_check:check", arguments, what=f"checking {exported.path.name}"
    ).value
    inputs, outputs = (
        tuple(TensorSpec(**{**fields, "shape": tuple(fields["shape"])}) for fields in answer[side])
        for side in ("inputs", "outputs")
    )
    return Declared(inputs, outputs, answer.get("runtime_floor"), tuple(answer["notes"]))
