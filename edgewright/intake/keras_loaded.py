"""A Keras model or SavedModel in memory. Runs in the child process that loaded it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from edgewright_runtime.bundle.manifest import TensorSpec

__all__ = ["Loaded"]


@dataclass(frozen=True)
class Loaded:
    """A model as a function of its input tensors; ``loader`` says what read it.

    A function of a SavedModel does not keep the variables alive that it reads: ``owner`` does. ``output_names`` are
    those of a Keras model's outputs, in their order; a SavedModel's function names them itself. ``numbers`` are the
    values of its inputs that are one number for all rows.
    """

    owner: Any
    function: Callable[..., Any]
    inputs: tuple[TensorSpec, ...]
    loader: str
    output_names: tuple[str, ...] = ()
    numbers: Mapping[str, bool | int | float] = field(default_factory=dict)

    @cached_property
    def asked(self) -> Callable[..., Any]:
        """The model as its answers are taken: a compiled function, as ``predict`` runs it.

        Called step by step a Keras model may answer otherwise: its Resizing then rounds what it makes of 8-bit pixels.
        """
        import tensorflow as tf

        signature = [tf.TensorSpec([None if s < 0 else s for s in t.shape], t.dtype) for t in self.inputs]
        compiled: Callable[..., Any] = tf.function(self.function, input_signature=signature)
        return compiled
