"""Which layer of `torch.nn` an operation of ATen with parameters is, and with which settings.

One function for each family; a fresh export keeps the composite operations (``conv2d``, ``batch_norm``), a decomposed
one has those of Core ATen (``convolution``, ``_native_batch_norm_legit_no_training``). Imports torch.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

__all__ = ["MAKERS", "Call", "Form"]

_TRANSPOSES = {"aten.t.default", "aten.numpy_T.default"}
_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_INSTANCE_NORMS = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


class Call:
    """A node with its arguments under the names of the operation's schema."""

    def __init__(self, node: fx.Node) -> None:
        self.node = node
        schema = node.target._schema  # type: ignore[union-attr]
        # A node holds the arguments that were given; the others have the schema's defaults.
        self._given = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
        self._given |= dict(zip((a.name for a in schema.arguments), node.args, strict=False)) | node.kwargs

    def __getitem__(self, name: str) -> Any:
        return self._given.get(name)

    def nodes(self) -> dict[str, fx.Node]:
        """The arguments that are one tensor each."""
        return {name: value for name, value in self._given.items() if isinstance(value, fx.Node)}

    def shape(self, name: str) -> tuple[int, ...]:
        """Sizes of a tensor argument."""
        # The example's sizes, some of which may be symbolic (SymInt).
        return tuple(self._given[name].meta["val"].shape)

    def rank(self, name: str = "input") -> int:
        """Number of axes of a tensor argument."""
        return len(self.shape(name))


@dataclass(frozen=True)
class Form:
    """A layer: how it is made, which of the program's tensors are its own, by their names in it, and what it is given.

    ``first`` where the operation returns several tensors, of which the layer gives the first.
    """

    kind: type[nn.Module]
    settings: Mapping[str, Any]
    tensors: Mapping[str, fx.Node | None]
    operands: tuple[fx.Node, ...]
    first: bool = False


Maker = Callable[[Call], Form | None]


def _padded_convolution(call: Call) -> Form | None:
    """conv1d, conv2d, conv3d: (input, weight, bias, stride, padding, dilation, groups)."""
    axes = call.rank("weight") - 2
    weight = call.shape("weight")
    padding = call["padding"]
    return Form(
        _CONVOLUTIONS[axes],
        {
            # The weight is (out_channels, in_channels / groups, *kernel): torch counts the inputs of one group.
            "in_channels": weight[1] * call["groups"],
            "out_channels": weight[0],
            "kernel_size": weight[2:],
            "stride": _each(call["stride"], axes),
            # "same" and "valid" stay words: the layer works the padding out for itself.
            "padding": padding if isinstance(padding, str) else _each(padding, axes),
            "dilation": _each(call["dilation"], axes),
            "groups": call["groups"],
            "bias": call["bias"] is not None,
        },
        {"weight": call["weight"], "bias": call["bias"]},
        (call["input"],),
    )


def _transposed_convolution(call: Call) -> Form | None:
    """conv_transpose1d, 2d, 3d: (input, weight, bias, stride, padding, output_padding, groups, dilation)."""
    axes = call.rank("weight") - 2
    weight = call.shape("weight")
    return Form(
        _TRANSPOSED[axes],
        {
            # Here the weight is the other way round: (in_channels, out_channels / groups, *kernel).
            "in_channels": weight[0],
            "out_channels": weight[1] * call["groups"],
            "kernel_size": weight[2:],
            **{name: _each(call[name], axes) for name in ("stride", "padding", "output_padding", "dilation")},
            "groups": call["groups"],
            "bias": call["bias"] is not None,
        },
        {"weight": call["weight"], "bias": call["bias"]},
        (call["input"],),
    )


def _convolution(call: Call) -> Form | None:
    """convolution of Core ATen, either way."""
    return _transposed_convolution(call) if call["transposed"] else _padded_convolution(call)


def _linear(call: Call) -> Form | None:
    return _dense(call["input"], call["weight"], call["bias"])


def _addmm(call: Call) -> Form | None:
    """bias + input @ weight.T."""
    weight = _untransposed(call["mat2"])
    # What is scaled, or has a bias for each row, is not a dense layer: mat1 @ mat2 * alpha + bias * beta.
    if weight is None or call["beta"] != 1 or call["alpha"] != 1 or call.rank("self") != 1:
        return None
    return _dense(call["mat1"], weight, call["self"])


def _mm(call: Call) -> Form | None:
    weight = _untransposed(call["mat2"])
    return None if weight is None else _dense(call["self"], weight, None)


def _dense(given: fx.Node, weight: fx.Node, bias: fx.Node | None) -> Form | None:
    sizes = weight.meta["val"].shape
    # linear takes a vector for its weight, too; nn.Linear does not.
    if len(sizes) != 2:
        return None
    settings = {"in_features": int(sizes[1]), "out_features": int(sizes[0]), "bias": bias is not None}
    return Form(nn.Linear, settings, {"weight": weight, "bias": bias}, (given,))


def _untransposed(node: Any) -> fx.Node | None:
    """The matrix whose transpose a node is."""
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return None
    name, arguments = str(node.target), list[Any](node.args)
    swapped = (
        name in _TRANSPOSES
        # Both axes, from whichever end they are counted: (0, 1), (1, 0), (-1, -2).
        or (name == "aten.transpose.int" and sorted(a % 2 for a in arguments[1:3]) == [0, 1])
        or (name == "aten.permute.default" and list(arguments[1]) == [1, 0])
    )
    return arguments[0] if swapped and isinstance(arguments[0], fx.Node) else None


def _batch_norm(call: Call) -> Form | None:
    """With kept statistics; without them it is not a layer of inference."""
    if call["running_mean"] is None or call["training"]:
        return None
    kind = _BATCH_NORMS.get(call.rank())
    if kind is None:
        return None
    settings = {
        "num_features": call.shape("running_mean")[0],
        "eps": call["eps"],
        "momentum": call["momentum"],
        "affine": call["weight"] is not None,
    }
    tensors = {name: call[name] for name in ("weight", "bias", "running_mean", "running_var")}
    # The decomposed forms return (output, mean, inverse deviation); batch_norm and layer_norm return the output alone.
    return Form(kind, settings, tensors, (call["input"],), first=len(call.node.target._schema.returns) > 1)  # type: ignore[union-attr]


def _instance_norm(call: Call) -> Form | None:
    kind = _INSTANCE_NORMS.get(call.rank())
    # nn.InstanceNorm takes the input's own statistics in evaluation mode only while it keeps none.
    if kind is None or not call["use_input_stats"] or call["running_mean"] is not None:
        return None
    settings = {"num_features": call.shape("input")[1], "eps": call["eps"], "affine": call["weight"] is not None}
    return Form(kind, settings, {"weight": call["weight"], "bias": call["bias"]}, (call["input"],))


def _layer_norm(call: Call) -> Form | None:
    settings = {"normalized_shape": tuple(call["normalized_shape"]), "eps": call["eps"]}
    settings |= {"elementwise_affine": call["weight"] is not None, "bias": call["bias"] is not None}
    tensors = {"weight": call["weight"], "bias": call["bias"]}
    several = len(call.node.target._schema.returns) > 1  # type: ignore[union-attr]
    return Form(nn.LayerNorm, settings, tensors, (call["input"],), first=several)


def _rms_norm(call: Call) -> Form | None:
    settings = {"normalized_shape": tuple(call["normalized_shape"]), "eps": call["eps"]}
    return Form(nn.RMSNorm, settings, {"weight": call["weight"]}, (call["input"],))


def _group_norm(call: Call) -> Form | None:
    # group_norm calls it num_groups, native_group_norm calls it group.
    groups = call["num_groups"] or call["group"]
    settings = {"num_groups": groups, "num_channels": int(call.shape("input")[1]), "eps": call["eps"]}
    settings |= {"affine": call["weight"] is not None}
    tensors = {"weight": call["weight"], "bias": call["bias"]}
    several = len(call.node.target._schema.returns) > 1  # type: ignore[union-attr]
    return Form(nn.GroupNorm, settings, tensors, (call["input"],), first=several)


def _embedding(call: Call) -> Form | None:
    rows, width = call.shape("weight")
    settings = {"num_embeddings": int(rows), "embedding_dim": int(width)}
    # -1 is the schema's way to say none; nn.Embedding would take it for the last row.
    if call["padding_idx"] is not None and call["padding_idx"] >= 0:
        settings["padding_idx"] = call["padding_idx"]
    return Form(nn.Embedding, settings, {"weight": call["weight"]}, (call["indices"],))


def _prelu(call: Call) -> Form | None:
    settings = {"num_parameters": math.prod(call.shape("weight"))}
    return Form(nn.PReLU, settings, {"weight": call["weight"]}, (call["self"],))


def _dropout(call: Call) -> Form | None:
    """In inference its operand; kept, since training needs it."""
    return Form(nn.Dropout, {"p": call["p"]}, {}, (call["input"],))


def _each(value: Any, axes: int) -> tuple[int, ...]:
    # A schema's int[2] takes one number for all axes, alone or as a list of one.
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return values * axes if len(values) == 1 else values


_FAMILIES: dict[Maker, tuple[str, ...]] = {
    _padded_convolution: tuple(f"conv{n}d.{o}" for n in (1, 2, 3) for o in ("default", "padding")),
    _transposed_convolution: ("conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input"),
    _convolution: ("convolution.default",),
    _linear: ("linear.default",),
    _addmm: ("addmm.default",),
    _mm: ("mm.default",),
    _batch_norm: ("batch_norm.default", "_native_batch_norm_legit_no_training.default", "native_batch_norm.default"),
    _instance_norm: ("instance_norm.default",),
    _layer_norm: ("layer_norm.default", "native_layer_norm.default"),
    _rms_norm: ("rms_norm.default",),
    _group_norm: ("group_norm.default", "native_group_norm.default"),
    _embedding: ("embedding.default",),
    _prelu: ("prelu.default",),
    _dropout: ("dropout.default",),
}

MAKERS: dict[str, Maker] = {f"aten.{name}": maker for maker, names in _FAMILIES.items() for name in names}
"""By the operation's name, as ``str`` gives it."""
