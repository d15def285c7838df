"""Recurrent layers of Keras written out step by step, so that no loop is left.

Runs in the child process that loaded the model.
"""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["unrolled"]

_MAX_STEPS = 256
"""A recurrent layer grows by a dozen operators with each step that is written out."""
_DIRECTIONS = ("forward_layer", "backward_layer")


def unrolled(owner: Any) -> bool:
    """Let every recurrent layer of a known, short length be written out; whether there is one."""
    flatten = getattr(owner, "_flatten_layers", None)
    layers = list(flatten()) if flatten else []
    wrapped = {
        id(inner): layer for layer in layers for inner in (getattr(layer, n, None) for n in _DIRECTIONS) if inner
    }
    chosen = [layer for layer in layers if hasattr(layer, "unroll") and _steps(wrapped.get(id(layer), layer))]
    for layer in chosen:
        layer.unroll = True
        if hasattr(layer, "_could_use_gpu_kernel"):  # of Keras 2: a kernel that cannot be written out
            layer._could_use_gpu_kernel = False
    for name in ("keras.src.backend", "tf_keras.src.backend"):
        backend: Any = sys.modules.get(name)
        if chosen and backend is not None and not hasattr(backend.rnn, "masks_in_order"):
            backend.rnn = _with_masks_in_order(backend.rnn)
    return bool(chosen)


def _with_masks_in_order(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Keras's ``rnn``, given a reversed sequence in place of being told to walk backwards.

    Written out, it would set the outputs of masked steps to zero by the mask of the unreversed sequence.
    """

    @functools.wraps(plain)
    def rnn(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(plain).bind(*args, **kwargs)
        given.apply_defaults()
        a = given.arguments
        if a["unroll"] and a["go_backwards"] and a["mask"] is not None and a["zero_output_for_mask"]:
            import tensorflow as tf

            time = [0 if a["time_major"] else 1]
            a["inputs"] = tf.nest.map_structure(lambda t: tf.reverse(t, time), a["inputs"])
            a["mask"], a["go_backwards"] = tf.reverse(a["mask"], time), False
        return plain(*given.args, **given.kwargs)

    rnn.masks_in_order = True  # type: ignore[attr-defined]
    return rnn


def _steps(layer: Any) -> int | None:
    """How many steps a recurrent layer takes, where that is known and not too many."""
    try:
        given = layer.input
    except (AttributeError, ValueError):  # called more than once, or inside a layer that is not a network
        return None
    # A mask stands beside what is masked.
    shape = (given[0] if isinstance(given, (list, tuple)) else given).shape
    steps = shape[1] if len(shape) > 1 else None
    return steps if isinstance(steps, int) and steps <= _MAX_STEPS else None
