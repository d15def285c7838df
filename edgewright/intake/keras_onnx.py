"""A loaded Keras or TensorFlow model as ONNX, by tf2onnx. Runs in the child process that loaded it."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgewright.failures import failing_operator, one_line
from edgewright.intake.accurate_nodes import write_expm1, write_log1p
from edgewright.intake.keras_answers import Outputs, flat
from edgewright.intake.keras_resizing import RESIZERS
from edgewright.intake.keras_unrolled import unrolled

if TYPE_CHECKING:
    import onnx

    from edgewright.intake.keras_loaded import Loaded

__all__ = ["to_onnx"]

_OPSET = 18
_CONTROL_FLOW = {"Loop", "If", "Scan"}


def to_onnx(loaded: "Loaded", outputs: Outputs, target: Path) -> str | None:
    """Write the model; why there is none otherwise, in one line that names the operator.

    A recurrent layer that comes out as a loop, as one over masked steps does, is written out step by step instead:
    no platform but ONNX Runtime takes a loop.
    """
    import onnx

    log = _Said()
    try:
        with log:
            model = _converted(loaded, outputs)
            # `unrolled` only sets the layers' flags; the next trace writes the steps out.
            if _loops(model) and unrolled(loaded.owner):
                model = _converted(loaded, outputs)
    except Exception as e:  # tf2onnx and TensorFlow raise whatever they meet
        at = log.operator or failing_operator(e)
        return f"tf2onnx: {f'operator {at}: ' if at else ''}{one_line(e, 240)}"
    if log.failed:  # it logs that, too, and leaves the operator as TensorFlow has it
        return f"tf2onnx: operator {log.operator}: {log.failed}"
    if log.unknown:
        return f"tf2onnx: no ONNX operator for {', '.join(dict.fromkeys(log.unknown))}"
    onnx.save(model, target)
    return None


def _converted(loaded: "Loaded", outputs: Outputs) -> Any:
    import tensorflow as tf
    import tf2onnx
    from tf2onnx.optimizer import back_to_back_optimizer

    # Retraining needs BatchNorm as a node of its own.
    back_to_back_optimizer._func_map.pop(("Conv", "BatchNormalization"), None)
    signature = [tf.TensorSpec([None if s < 0 else s for s in t.shape], t.dtype, name=t.name) for t in loaded.inputs]

    def named(*tensors: Any) -> list[Any]:
        results = [value for _, value in flat(loaded.function(*tensors))]
        # tf2onnx names an output after its tensor; the identity gives that a name.
        return [tf.identity(results[place], name=spec.name) for spec, place in outputs]

    function = tf.function(named, input_signature=signature)
    with _without_xla(tf):
        model, _ = tf2onnx.convert.from_function(
            function, input_signature=signature, opset=_OPSET, custom_op_handlers=_OF_OUR_OWN
        )
        _hold_captured(model, function.get_concrete_function())
    return model


@contextmanager
def _without_xla(tf: Any) -> Iterator[None]:
    """Keras has convolutions in groups compiled by XLA, in calls that stay calls; as plain nodes tf2onnx knows them."""
    own = tf.function

    def plain(*given: Any, **settings: Any) -> Any:
        return own(*given, **{name: value for name, value in settings.items() if name != "jit_compile"})

    tf.function = plain
    try:
        yield
    finally:
        tf.function = own


def _erfc(context: Any, node: Any, _name: str, _args: Any) -> None:
    """1 - erf(x), which is what Keras's gelu is made of."""
    shape, dtype = context.get_shape(node.output[0]), context.get_dtype(node.output[0])
    given, result = node.input[0], node.output[0]
    # First, since a new node takes over the name of its output.
    context.remove_node(node.name)
    one = context.make_const(f"{node.name}_one", np.ones((), np.float32))
    erf = context.make_node("Erf", [given], shapes=[shape], dtypes=[dtype])
    context.make_node("Sub", [one.output[0], erf.output[0]], outputs=[result], shapes=[shape], dtypes=[dtype])


def _reverse(context: Any, node: Any, _name: str, _args: Any) -> None:
    """Slices that walk backwards; tf2onnx itself writes a ReverseSequence with a length for each row."""
    axes = [int(axis) for axis in np.atleast_1d(node.inputs[1].get_tensor_value(as_list=False))]
    shape, dtype = context.get_shape(node.output[0]), context.get_dtype(node.output[0])
    given, result = node.input[0], node.output[0]
    context.remove_node(node.name)
    # Far before the first element: ONNX clamps the end, whatever the length of the axis.
    limits = {"starts": [-1] * len(axes), "ends": [-(2**31)] * len(axes), "axes": axes, "steps": [-1] * len(axes)}
    constants = [context.make_const(f"{node.name}_{k}", np.array(v, np.int64)).output[0] for k, v in limits.items()]
    context.make_node("Slice", [given, *constants], outputs=[result], shapes=[shape], dtypes=[dtype])


def _bucketize(context: Any, node: Any, _name: str, _args: Any) -> None:
    """The number of boundaries that a value reaches: what Keras's Discretization is made of."""
    shape, dtype = context.get_shape(node.output[0]), context.get_dtype(node.output[0])
    boundaries = np.array(node.get_attr_value("boundaries"), np.float32)
    given, result = node.input[0], node.output[0]
    context.remove_node(node.name)
    last = context.make_const(f"{node.name}_axes", np.array([-1], np.int64)).output[0]
    limits = context.make_const(f"{node.name}_boundaries", boundaries).output[0]
    real = context.make_node("Cast", [given], attr={"to": 1})
    wide = context.make_node("Unsqueeze", [real.output[0], last])
    # (..., boundaries): 1 for each that the value reaches.
    reached = context.make_node(
        "Cast", context.make_node("GreaterOrEqual", [wide.output[0], limits]).output, attr={"to": 1}
    )
    count = context.make_node("ReduceSum", [reached.output[0], last], attr={"keepdims": 0})
    context.make_node("Cast", count.output, attr={"to": dtype}, outputs=[result], shapes=[shape], dtypes=[dtype])


def _counted(context: Any, node: Any, _name: str, _args: Any) -> None:
    """How often each id of a row occurs, or whether: what CategoryEncoding and Discretization (multi_hot, count) are
    made of. tf2onnx itself counts over the batch at once, so that sizes depend on it."""
    size = _least_and_most(node.inputs[1])
    if size is None:
        raise ValueError("counts into a number of bins that depends on the data; say num_tokens or num_bins")
    nodes = _Nodes(context, node)
    ids, weights, result = node.input[0], node.input[2], node.output[0]
    is_weighted = not node.inputs[2].is_const() or bool(node.inputs[2].get_tensor_value(as_list=False).size)
    only_whether = node.get_attr_value("binary_output")
    last, across = nodes.constant([-1], np.int64), nodes.constant([-2], np.int64)
    context.remove_node(node.name)
    bins = nodes.constant(np.arange(size))
    # (rows, ids) to (rows, ids, bins), which is summed over the ids.
    wide = nodes.call("Unsqueeze", nodes.call("Cast", ids, to=1), last)
    hits = nodes.call("Cast", nodes.call("Equal", wide, bins), to=1)
    if is_weighted and not only_whether:
        hits = nodes.call("Mul", hits, nodes.call("Unsqueeze", nodes.call("Cast", weights, to=1), last))
    count = nodes.call("ReduceSum", hits, across, keepdims=0)
    count = nodes.call("Min", count, nodes.constant(1.0)) if only_whether else count
    context.make_node("Cast", [count], attr={"to": nodes.dtype}, outputs=[result], shapes=[nodes.shape])


def _least_and_most(node: Any) -> int | None:
    """The number of bins where Keras bounds it by one number from both sides; None where the data decides."""
    bounds = list[int]()
    while node is not None:
        if node.is_const():
            return int(node.get_tensor_value(as_list=False).reshape(-1)[0])
        if node.type in {"Minimum", "Min", "Maximum", "Max"}:
            held = [int(np.max(given.get_tensor_value(as_list=False))) for given in node.inputs if given.is_const()]
            bounds += held[:1]
            if len(bounds) > 1:
                return bounds[0] if bounds[0] == bounds[1] else None
            node = next((given for given in node.inputs if not given.is_const()), None)
        elif node.type in {"Identity", "Cast"}:
            node = node.inputs[0]
        else:
            return None
    return None


class _Nodes:
    """Adds operators to tf2onnx's graph, of the shape and type of one node."""

    def __init__(self, context: Any, node: Any) -> None:
        self._context, self._name, self._count = context, node.name, 0
        self.shape, self.dtype = context.get_shape(node.output[0]), context.get_dtype(node.output[0])

    def call(self, kind: str, *inputs: str, **attributes: Any) -> str:
        node = self._context.make_node(kind, list(inputs), attr=attributes)
        return str(node.output[0])

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        self._count += 1
        return str(self._context.make_const(f"{self._name}_number_{self._count}", np.array(values, dtype)).output[0])


def _written(write: Callable[[_Nodes, str], str]) -> Callable[..., None]:
    def handler(context: Any, node: Any, _name: str, _args: Any) -> None:
        nodes, given, result = _Nodes(context, node), node.input[0], node.output[0]
        context.remove_node(node.name)
        value = write(nodes, given)
        context.make_node("Identity", [value], outputs=[result], shapes=[nodes.shape], dtypes=[nodes.dtype])

    return handler


_OF_OUR_OWN: dict[str, tuple[Callable[..., None], list[str]]] = {
    "Erfc": (_erfc, []),
    "ReverseV2": (_reverse, []),
    "Bucketize": (_bucketize, []),
    "DenseBincount": (_counted, []),
    "Log1p": (_written(write_log1p), []),
    "Expm1": (_written(write_expm1), []),
    **RESIZERS,
}
"""Handlers of TensorFlow's operators that tf2onnx lacks, or writes in a way that no platform takes."""


def _hold_captured(model: "onnx.ModelProto", function: Any) -> None:
    """Constants that a function captured, such as a normalization's mean: tf2onnx leaves them as inputs."""
    from onnx import numpy_helper

    captured = {inner.name: value for value, inner in function.graph.captures if hasattr(value, "numpy")}
    for entry in [e for e in model.graph.input if e.name in captured]:
        model.graph.initializer.append(numpy_helper.from_array(captured[entry.name].numpy(), entry.name))
        model.graph.input.remove(entry)


def _loops(model: "onnx.ModelProto") -> bool:
    return any(node.op_type in _CONTROL_FLOW for node in model.graph.node)


class _Said(logging.Handler):
    """What tf2onnx tells of its operators: it logs what it cannot convert, and goes on."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.unknown: list[str] = []
        self.operator = ""
        self.failed = ""

    def __enter__(self) -> None:
        logging.getLogger("tf2onnx").addHandler(self)

    def __exit__(self, *_: object) -> None:
        logging.getLogger("tf2onnx").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Note the operators of a message."""
        text = record.getMessage()
        if text.startswith("Tensorflow op [") and "is not supported" in text:
            name, _, kind = text.removeprefix("Tensorflow op [").partition("]")[0].partition(":")
            self.unknown.append(f"{kind.strip()} (node '{name}')")
        elif text.startswith("Failed to convert node"):
            self.operator = text.removeprefix("Failed to convert node").strip().split(" ")[0].strip("'\"")
            raised = record.exc_info[1] if record.exc_info else None
            self.failed = one_line(raised, 240) if raised is not None else "not converted"
