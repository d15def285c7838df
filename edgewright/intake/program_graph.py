"""A `torch.export` program as an internal graph: the program itself, with its layers raised to modules again.

Nothing is translated, so what torch can export comes in: parameters get their own names back, regions without gradient
are written out, what only asserts is left out, an operation that works in place becomes the one that does not, bags
of embeddings are opened, and `raise_layers` puts layers where there are weights to work on. Every other operation
stays what it is.
Runs in a child process: imports torch.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.export.graph_signature import InputKind, OutputKind

from edgewright.errors import InputError, UnsupportedError
from edgewright.intake.aten import SIZE_FUNCTIONS, is_pure
from edgewright.intake.embedding_bags import open_bags
from edgewright.intake.grouped_experts import GROUPED, ungroup_experts
from edgewright.intake.module_paths import free_place, place, plain_path
from edgewright.intake.pure_program import functional
from edgewright.intake.raise_layers import raise_layers

__all__ = ["graph_of_program", "refuse_training_mode"]

_ATEN = torch.ops.aten
_SIZE_FUNCTIONS = frozenset(SIZE_FUNCTIONS.values())
# Their result is their operand: what they ask of autograd, memory or layout has no meaning here.
_SAME_VALUE = {
    *(_ATEN.detach.default, _ATEN.alias.default, _ATEN.lift_fresh_copy.default, _ATEN.lift_fresh.default),
    *(_ATEN.contiguous.default, _ATEN.clone.default, _ATEN.detach_copy.default),
}
# A view needs its operand's memory in an order that a graph in training (channels last) does not keep.
_RESHAPES = {_ATEN.view.default, _ATEN._unsafe_view.default}
_PLACES = {"device", "layout", "pin_memory", "memory_format", "non_blocking", "copy"}
_ASSERTS = ("_assert", "sym_constrain_range")


def graph_of_program(
    program: Any, outputs: Sequence[int] | None = None, fixed: Mapping[str, torch.Tensor] | None = None
) -> fx.GraphModule:
    """The graph in inference mode; it takes the program's tensors in their order, returns a tensor or a tuple of them.

    Args:
        program: a `torch.export.ExportedProgram`.
        outputs: places of the program's outputs that are kept; all that are tensors where left out.
        fixed: inputs by name that become constants of these values.

    Raises:
        UnsupportedError: an operation that is not one of tensors (control flow, a custom operator); names it.
    """
    # First, since what follows reads each result where it is made and knows no writing in place.
    program = functional(program)
    builder = _Copy(program, outputs, fixed or {})
    module = fx.GraphModule(builder.root, builder.copied())
    # Before layers are raised: both leave operations that become layers.
    ungroup_experts(module)
    open_bags(module)
    raise_layers(module)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return module.eval()


def refuse_training_mode(program: Any, what: str) -> None:
    """Refuse a program whose dropout drops or whose BatchNorm takes the batch's own statistics.

    Raises:
        InputError: it was exported in training mode.
    """
    for node in program.graph.nodes:
        if node.op == "call_function" and _trains(node):
            raise InputError(
                f"{what}: the program was exported in training mode ({node.target} at '{node.name}'): its answers "
                "would depend on chance or on the other rows; call model.eval() before torch.export"
            )


# Where the argument stands that says so; what must stand before it to count.
_TRAINING = dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout"), 2)
_TRAINING |= dict.fromkeys(("batch_norm", "native_batch_norm", "_native_batch_norm_legit"), 5)
_TRAINING |= {"rrelu": 3, "rrelu_with_noise": 4, "rrelu_with_noise_functional": 4}
_TRAINING |= dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), 6)


def _trains(node: fx.Node) -> bool:
    name = str(node.target).removeprefix("aten.").partition(".")[0].removesuffix("_")
    if name == "_native_batch_norm_legit_functional":
        return True
    given = dict(enumerate(node.args))
    if given.get(_TRAINING.get(name, -1)) is not True:
        return False
    # Without kept statistics it is no BatchNorm of a trained network; a recurrent layer may have no dropout.
    return (
        given[3] is not None
        if "norm" in name
        else name not in {"lstm", "gru", "rnn_tanh", "rnn_relu"} or bool(given[5])
    )


class _Copy:
    """The program's graph, node by node, with its tensors as attributes of ``root`` under their own names."""

    def __init__(self, program: Any, outputs: Sequence[int] | None, fixed: Mapping[str, torch.Tensor]) -> None:
        self.program = program
        self.fixed = fixed
        self.outputs = outputs
        self.root = nn.Module()
        self.placed: dict[str, torch.Tensor] = {}
        self.graph = fx.Graph()

    def copied(self) -> fx.Graph:
        """The new graph; its nodes keep ``meta``."""
        signature = self.program.graph_signature
        kinds = {spec.arg.name: spec for spec in signature.input_specs if hasattr(spec.arg, "name")}
        values: dict[fx.Node, Any] = {}
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                values[node] = self._input(node, kinds[node.name])
            elif node.op == "output":
                self._output([values.get(n) for n in _user_outputs(node, signature)])
            else:
                self._step(node, values, self.program.graph_module)
        self.graph.lint()
        return self.graph

    def _input(self, node: fx.Node, spec: Any) -> Any:
        if spec.kind is InputKind.USER_INPUT:
            is_tensor = isinstance(node.meta.get("val"), torch.Tensor)
            if node.name in self.fixed:
                value = self.fixed[node.name]
                # What was a number in the program stays one: an argument that must be int takes no tensor.
                return self._held_tensor(node.name, value, node) if is_tensor else value.item()
            if not is_tensor:
                return node.meta.get("val")  # a number or None that the export fixed
            placeholder = self.graph.placeholder(node.name)
            placeholder.meta = dict(node.meta)
            return placeholder
        if spec.kind is InputKind.PARAMETER or (
            # A buffer that is not persistent lies among the constants, not in the state dict.
            spec.kind is InputKind.BUFFER and spec.target in self.program.state_dict
        ):
            tensor = self.program.state_dict[spec.target]
        elif spec.kind in {InputKind.BUFFER, InputKind.CONSTANT_TENSOR}:
            tensor = self.program.constants[spec.target]
        else:
            raise UnsupportedError(f"the program's input '{node.name}' is an object ({spec.kind.name}), not a tensor")
        return self._held_tensor(spec.target, tensor, node)

    def _held_tensor(self, name: str, tensor: torch.Tensor, node: fx.Node) -> fx.Node:
        path = plain_path(name)
        # Two names may become one path ("a-b" and "a_b"), and each region has names of its own.
        if self.placed.get(path) is not tensor:
            path = free_place(self.root, path)
            self.placed[path] = tensor
            place(self.root, path, tensor if isinstance(tensor, nn.Parameter) else tensor.detach())
        attribute = self.graph.get_attr(path)
        attribute.meta = dict(node.meta)
        return attribute

    def _step(self, node: fx.Node, values: dict[fx.Node, Any], owner: fx.GraphModule) -> None:
        if node.op == "get_attr":
            values[node] = getattr(owner, str(node.target))
            if isinstance(values[node], torch.Tensor):
                values[node] = self._held_tensor(str(node.target), values[node], node)
            return
        target, arguments = node.target, fx.node.map_arg(node.args, lambda n: values[n])
        if isinstance(target, torch._ops.HigherOrderOperator):
            values[node] = self._region(node, arguments)
        # What they assert held when the program was exported; nothing reads their result.
        elif any(str(target).removeprefix("aten.").startswith(name) for name in _ASSERTS):
            return
        # A region returns its results as a list, of which the program takes one by one.
        elif target is operator.getitem and isinstance(arguments[0], (list, tuple)):
            values[node] = arguments[0][arguments[1]]  # type: ignore[index]
        elif target in _SAME_VALUE:
            values[node] = arguments[0]
        else:
            values[node] = self._called(node, arguments, fx.node.map_arg(node.kwargs, lambda n: values[n]))

    def _called(self, node: fx.Node, arguments: Any, named: dict[str, Any]) -> fx.Node:
        target: Any = _ATEN.reshape.default if node.target in _RESHAPES else node.target
        if not (is_pure(target) or target in _SIZE_FUNCTIONS or str(target) in GROUPED):
            raise UnsupportedError(f"operator {target} (node '{node.name}') is not one of torch's own on tensors")
        # A graph goes to other devices and layouts; these arguments change no value.
        named = {k: v for k, v in named.items() if k not in _PLACES}
        call = self.graph.call_function(target, fx.node.map_aggregate(arguments, _on_cpu), named)
        call.meta = dict(node.meta)
        return call

    def _region(self, node: fx.Node, arguments: Any) -> list[Any]:
        """What a region without gradient, or without autocast, computes, written out."""
        name = str(node.target)
        # (enabled, region, ...) and (device, dtype, enabled, cache, region, ...): where the region stands.
        # Autocast that is off changes nothing.
        places = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}
        if name not in places or (name == "wrap_with_autocast" and arguments[2]):
            raise UnsupportedError(
                f"operator {name} (node '{node.name}'): control flow and regions of mixed precision have no path; "
                "export the model without them"
            )
        inner, given = arguments[places[name]], iter(arguments[places[name] + 1 :])
        values: dict[fx.Node, Any] = {}
        for step in inner.graph.nodes:
            if step.op == "placeholder":
                values[step] = next(given)
            elif step.op == "output":
                return list(fx.node.map_arg(step.args[0], lambda n: values[n]))
            else:
                self._step(step, values, inner)
        raise UnsupportedError(f"operator {name} (node '{node.name}') returns nothing")

    def _output(self, results: list[Any]) -> None:
        outputs = results if self.outputs is None else [results[place] for place in self.outputs]
        # Outputs that are numbers or None hold nothing for a row.
        tensors = [r for r in outputs if isinstance(r, fx.Node) and isinstance(r.meta.get("val"), torch.Tensor)]
        if not tensors:
            raise UnsupportedError("the program returns no tensor")
        self.graph.output(tensors[0] if len(tensors) == 1 else tuple(tensors))


def _user_outputs(node: fx.Node, signature: Any) -> list[Any]:
    """What the program returns to its caller, without the new values of its buffers that may stand before it."""
    kinds = [spec.kind for spec in signature.output_specs]
    results = node.args[0]
    return [r for r, kind in zip(results, kinds, strict=True) if kind is OutputKind.USER_OUTPUT]  # type: ignore[arg-type]


def _on_cpu(value: Any) -> Any:
    return torch.device("cpu") if isinstance(value, torch.device) else value
