"""A Keras or SavedModel source, loaded anew, as one TensorFlow function of batch 1. Runs in a child process."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from edgewright.artifact import Format, ImportedModel
from edgewright.data import DataSpec
from edgewright.errors import ConversionError, UnsupportedError
from edgewright.failures import failing_operator, one_line
from edgewright.value import Value

if TYPE_CHECKING:
    from edgewright.intake.keras_loaded import Loaded

__all__ = [
    "TensorFlowSource",
    "environment_of",
    "is_tensorflow",
    "loaded_source",
    "of_one_row",
    "refused",
    "source_of",
]


class TensorFlowSource(Value):
    """A file or folder of Keras or TensorFlow, by which loader of Keras, and the shape of each input, batch 1.

    ``numbers``: the values of inputs that are one number for all rows.
    """

    path: Path
    form: Format
    legacy: bool
    shapes: dict[str, tuple[int, ...]]
    numbers: dict[str, bool | int | float] = Field(default_factory=dict)


_LOOPS = {"While", "StatelessWhile", "If", "StatelessIf", "Case", "StatelessCase"}


def is_tensorflow(model: ImportedModel) -> bool:
    """Whether TensorFlow's own converters take the source, and what they make of it is the model as it stands."""
    return model.is_untouched and model.source.format in {Format.KERAS, Format.SAVED_MODEL}


def source_of(model: ImportedModel) -> TensorFlowSource:
    """The source as a converter's child is told of it."""
    return TensorFlowSource(
        path=model.source.path,
        form=model.source.format,
        legacy=_is_legacy(model),
        shapes={spec.name: (1, *spec.shape[1:]) for spec in model.inputs},
        numbers=model.single_numbers,
    )


def environment_of(model: ImportedModel) -> dict[str, str]:
    """What chooses the loader of Keras 2 before TensorFlow is imported."""
    return {"TF_USE_LEGACY_KERAS": "1" if _is_legacy(model) else "0", "TF_CPP_MIN_LOG_LEVEL": "3"}


def loaded_source(source: TensorFlowSource) -> "Loaded":
    """The model as intake loaded it."""
    from edgewright.intake.keras_child import load

    spec = DataSpec(path=source.path, shapes=source.shapes)
    return load(source.path, source.form, spec, legacy=source.legacy, numbers=source.numbers)


def of_one_row(loaded: "Loaded", input_names: list[str], *, without_loops: bool = False) -> Any:
    """A `tf.function` of one row, returning the outputs that intake kept as a list in their order.

    ``without_loops`` writes recurrent layers of Keras out step by step.
    """
    import tensorflow as tf

    from edgewright.intake.keras_answers import flat, outputs_of
    from edgewright.intake.keras_unrolled import unrolled

    outputs, _ = outputs_of(loaded)
    signature = [
        tf.TensorSpec([1, *spec.shape[1:]], spec.dtype, name=name)
        for spec, name in zip(loaded.inputs, input_names, strict=True)
    ]

    def run(*tensors: Any) -> list[Any]:
        results = [value for _, value in flat(loaded.function(*tensors))]
        return [results[place] for _, place in outputs]

    function = tf.function(run, input_signature=signature)
    # Traced anew: a `tf.function` keeps the graph of the layers as they were before they were unrolled.
    if without_loops and _has_loops(function) and unrolled(loaded.owner):
        function = tf.function(run, input_signature=signature)
    return function


def refused(converter: str, error: Exception) -> UnsupportedError | ConversionError:
    """What a converter of TensorFlow's own graphs says, in one line with the operator by name."""
    # Of the converter's report, its lists of operators say what is missing.
    unknown = _unknown_operators(str(error))
    if unknown:
        return UnsupportedError(f"{converter}: no operator for {', '.join(unknown)}")
    at = failing_operator(error)
    return ConversionError(f"{converter}: {f'operator {at}: ' if at else ''}{one_line(error)}")


def _unknown_operators(text: str) -> list[str]:
    """The operators that TensorFlow's converter to LiteRT lists as those that need TensorFlow itself."""
    listed = [
        line.partition(":")[2]
        for line in text.splitlines()
        if line.strip().startswith(("TF Select ops:", "Custom ops:"))
    ]
    return list(dict.fromkeys(name.strip() for names in listed for name in names.split(",") if name.strip()))


def _has_loops(function: Any) -> bool:
    return any(operation.type in _LOOPS for operation in function.get_concrete_function().graph.get_operations())


def _is_legacy(model: ImportedModel) -> bool:
    return any(note.startswith("loaded with tf-keras") for note in model.notes)
