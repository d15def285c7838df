"""Wrong rewrites of an `.mlpackage`, each as a converter might make it: (what is wrong, operator, layers) by name."""

import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.export import mlpackage

_MODEL, _WEIGHTS = "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"
_FIELDS = {"float32": "floats", "int32": "ints", "bool": "bools"}


class Program:
    """A package's program and weight file, to be changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.specification = mlpackage.load(path)
        self.block = mlpackage.program_of(self.specification, path)
        self.weights = bytearray((path / _WEIGHTS).read_bytes())

    def save(self) -> None:
        (self.path / _MODEL).write_bytes(self.specification.SerializeToString())
        (self.path / _WEIGHTS).write_bytes(self.weights)

    def operators(self, kind: str) -> list[Any]:
        return [o for o in self.block.operations if o.type == kind]

    def giving(self, name: str) -> Any:
        return next(o for o in self.block.operations if o.outputs[0].name == name)

    def constant(self, operator: Any, parameter: str) -> Any:
        argument = operator.inputs[parameter].arguments[0]
        if argument.WhichOneof("binding") == "value":
            return argument.value
        return self.giving(argument.name).attributes["val"]

    def read(self, operator: Any, parameter: str) -> np.ndarray:
        value = self.constant(operator, parameter)
        shape = tuple(d.constant.size for d in value.type.tensorType.dimensions)
        if value.WhichOneof("value") == "blobFileValue":
            size, offset = self._place(value)
            return np.frombuffer(bytes(self.weights[offset : offset + size]), np.float32).reshape(shape).copy()
        tensor = value.immediateValue.tensor
        return np.array(getattr(tensor, tensor.WhichOneof("value")).values).reshape(shape)

    def put(self, operator: Any, parameter: str, values: Any) -> None:
        """Of the same size; a constant of this operator alone, where others may share the old one."""
        shared = self.constant(operator, parameter)
        array = np.asarray(values)
        if shared.WhichOneof("value") == "blobFileValue":
            size, offset = self._place(shared)
            content = array.astype(np.float32).tobytes()
            assert len(content) == size
            self.weights[offset : offset + size] = content
            return
        made = self.block.operations.add()
        made.CopyFrom(self.giving(operator.inputs[parameter].arguments[0].name))
        name = f"planted_{len(self.block.operations)}"
        made.outputs[0].name = name
        tensor = made.attributes["val"].immediateValue.tensor
        kind = tensor.WhichOneof("value")
        plain = [str(values)] if kind == "strings" else array.reshape(-1).tolist()
        getattr(tensor, kind).values[:] = plain
        self.first(made)
        self.current(operator).inputs[parameter].arguments[0].name = name

    def first(self, made: Any) -> None:
        """Move the operation that was added last to the front, where all can read it."""
        held = type(made)()
        held.CopyFrom(made)
        del self.block.operations[-1]
        self.block.operations.insert(0, held)

    def current(self, operator: Any) -> Any:
        """The operation itself, wherever it now stands."""
        return self.giving(operator.outputs[0].name)

    def _place(self, value: Any) -> tuple[int, int]:
        at = value.blobFileValue.offset
        _, _, size, offset = struct.unpack_from("<IIQQ", bytes(self.weights[at : at + 24]))
        return size, offset


Plant = Callable[[Program], None]


def dropped_bias(program: Program) -> None:
    program.put(program.operators("linear")[4], "bias", np.zeros(12))


def wrong_padding_side(program: Program) -> None:
    program.put(program.operators("conv")[0], "pad", [0, 2, 0, 2])


def wrong_epsilon(program: Program) -> None:
    program.put(program.operators("layer_norm")[0], "epsilon", 1e-2)


def swapped_channels(program: Program) -> None:
    operator = program.operators("conv")[3]
    program.put(operator, "weight", np.roll(program.read(operator, "weight"), 1, axis=1))


def transposed_square_weight(program: Program) -> None:
    operator = program.operators("linear")[1]
    program.put(operator, "weight", program.read(operator, "weight").T)


def clipped_activation(program: Program) -> None:
    program.operators("relu")[0].type = "relu6"


def unclipped_activation(program: Program) -> None:
    program.operators("relu6")[0].type = "relu"


def dropped_activation(program: Program) -> None:
    program.operators("relu")[0].type = "identity"


def wrong_softmax_axis(program: Program) -> None:
    program.put(program.operators("softmax")[0], "axis", 2)


def wrong_pool_divisor(program: Program) -> None:
    program.put(program.operators("avg_pool")[0], "exclude_padding_from_average", True)


def wrong_slope(program: Program) -> None:
    program.put(program.operators("leaky_relu")[0], "alpha", 0.01)


def tanh_gelu(program: Program) -> None:
    program.put(program.operators("gelu")[0], "mode", "TANH_APPROXIMATION")


def wrong_dilation(program: Program) -> None:
    operator = program.operators("conv")[1]
    program.put(operator, "dilations", [1, 1])
    program.put(program.operators("conv")[1], "pad", [1, 1, 1, 1])


def off_by_one_slice(program: Program) -> None:
    operator = program.operators("slice_by_index")[0]
    program.put(operator, "begin", [0, 0, 0])
    operator = program.operators("slice_by_index")[0]
    program.put(operator, "end", [1, 15, 12])
    program.put(program.operators("slice_by_index")[0], "end_mask", [True, False, True])


def scaled(program: Program) -> None:
    operator = program.operators("mul")[1]
    program.put(operator, "y", np.float32(0.9 * 1.01))


def wrong_resize_mode(program: Program) -> None:
    program.put(program.operators("upsample_bilinear")[0], "align_corners", True)


def flipped_sign(program: Program) -> None:
    operator = program.operators("conv")[2]
    program.put(operator, "weight", -program.read(operator, "weight"))


def wrong_concat_order(program: Program) -> None:
    arguments = program.operators("concat")[0].inputs["values"].arguments
    first, second = (argument.name for argument in arguments)
    arguments[0].name, arguments[1].name = second, first


def reciprocal_with_epsilon(program: Program) -> None:
    """As coremltools 9.0 converts it."""
    operator = program.operators("real_div")[0]
    divisor = operator.inputs["y"].arguments[0].name
    operator.type = "inverse"
    del operator.inputs["x"], operator.inputs["y"]
    operator.inputs["x"].arguments.add().name = divisor


def stale_statistic(program: Program) -> None:
    operator = program.operators("conv")[0]
    program.put(operator, "bias", program.read(operator, "bias") + 0.05)


def maximum_for_mean(program: Program) -> None:
    program.operators("reduce_mean")[0].type = "reduce_max"


def keys_for_values(program: Program) -> None:
    """Attention mixes keys in the place of values."""
    reshape = next(o for o in program.operators("reshape") if o.inputs["x"].arguments[0].name == "attention_value")
    reshape.inputs["x"].arguments[0].name = "attention_key"


DEFECTS: dict[str, tuple[Plant, str, set[str]]] = {
    "dropped bias": (dropped_bias, "linear", {"up"}),
    "padding on the wrong side": (wrong_padding_side, "conv", {"stem", "stem_norm"}),
    "wrong epsilon": (wrong_epsilon, "layer_norm", {"attention.norm"}),
    "swapped channels": (swapped_channels, "conv", {"point"}),
    "transposed weight of a square dense layer": (transposed_square_weight, "linear", {"attention.key"}),
    "clipped activation": (clipped_activation, "relu6", {"rectify"}),
    "activation without its bound": (unclipped_activation, "relu", {"relu6"}),
    "dropped activation": (dropped_activation, "identity", {"rectify"}),
    "wrong axis of a softmax": (wrong_softmax_axis, "softmax", {"softmax"}),
    "wrong divisor of a pool": (wrong_pool_divisor, "avg_pool", {"pool"}),
    "wrong slope": (wrong_slope, "leaky_relu", {"leaky"}),
    "tanh approximation of a gelu": (tanh_gelu, "gelu", {"gelu"}),
    "wrong dilation": (wrong_dilation, "conv", {"wide"}),
    "slice off by one": (off_by_one_slice, "slice_by_index", {"getitem"}),
    "scale by 1.01": (scaled, "mul", {"mul"}),
    "wrong mode of a resize": (wrong_resize_mode, "upsample_bilinear", {"grow"}),
    "flipped sign": (flipped_sign, "conv", {"depth", "depth_norm"}),
    "wrong order of a concatenation": (wrong_concat_order, "concat", {"cat"}),
    "reciprocal with an epsilon": (reciprocal_with_epsilon, "inverse", {"reciprocal"}),
    "stale statistic of a batch norm": (stale_statistic, "conv", {"stem", "stem_norm"}),
    "maximum for a mean": (maximum_for_mean, "reduce_max", {"mean"}),
    "keys for values": (keys_for_values, "reshape", {"attention.value"}),
}


def planted(source: Path, defect: str, folder: Path) -> Path:
    """A copy of the package with the defect in it."""
    path = folder / "planted.mlpackage"
    shutil.copytree(source, path)
    program = Program(path)
    DEFECTS[defect][0](program)
    program.save()
    return path
