"""Building a `torch.fx` graph one operator at a time: constants are folded at once, shapes are known throughout.

Runs in a child process: imports torch.
"""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
import sympy
import torch
from numpy.typing import NDArray
from torch import fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from edgewright.errors import UnsupportedError

__all__ = [
    "Argument",
    "Builder",
    "Dims",
    "Op",
    "Operand",
    "Result",
    "TensorSequence",
    "is_static",
    "multiple",
    "operand",
    "refuse",
    "tensor",
]

Operand = torch.Tensor | fx.Node
"""A constant, or a node whose ``meta["val"]`` is a tensor without data that knows its shape and dtype."""

Dims = NDArray[np.object_]
"""Integers of which at least one depends on the free batch size (`torch.SymInt`)."""


@dataclass(frozen=True)
class TensorSequence:
    """An ONNX sequence: how many tensors it holds is known, so it leaves nothing in the graph."""

    items: tuple[Operand | Dims, ...]


Argument = Operand | Dims | TensorSequence | None
"""What stands behind an ONNX name; None is an optional input that was left out."""

Result = Argument | tuple[Argument, ...]
"""What a handler gives back: one value, or one for each output."""

_INVALID = re.compile(r"[^0-9a-zA-Z_.]")
# What the free size counts as where torch must take one of two ways. A prime that no layer is likely to have, so that
# the batch is not mistaken for another size that happens to equal it.
_TRACED_BATCH = 7919
_OTHER_BATCHES = (1, 2, 7, 8, 64)


@dataclass(frozen=True)
class Op:
    """One ONNX node with its inputs already resolved."""

    kind: str
    name: str
    inputs: tuple[Argument, ...]
    attributes: dict[str, Any]
    opset: int
    outputs: tuple[str, ...]
    input_names: tuple[str, ...] = ()
    asked: set[str] = field(default_factory=set)
    """Attributes that the handler has read; one that it has not could change the result silently."""

    def get(self, attribute: str, default: Any = None) -> Any:
        """An attribute, or what the specification says when it is left out."""
        self.asked.add(attribute)
        return self.attributes.get(attribute, default)

    def input(self, index: int) -> Argument:
        """An input, or None when it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None


def refuse(op: Op, why: str) -> UnsupportedError:
    """The error for an operator, or a use of one, that the importer does not know."""
    return UnsupportedError(
        f"operator {op.kind} (node '{op.name or op.outputs[0]}'): {why}; what still works: platform quantization of "
        "the ONNX graph for ONNX Runtime (--platform edge_device), which needs no restructuring"
    )


def tensor(op: Op, index: int) -> torch.Tensor:
    """An input that must be a constant."""
    value = op.input(index)
    if not isinstance(value, torch.Tensor):
        raise refuse(op, f"input {index} must be a constant")
    return value


def operand(op: Op, index: int) -> Operand:
    """An input that must be there."""
    value = op.input(index)
    if not isinstance(value, (torch.Tensor, fx.Node)):
        raise refuse(op, f"input {index} is missing or depends on the batch size")
    return value


def is_static(sizes: Sequence[Any]) -> bool:
    """Whether no size depends on the batch."""
    return all(isinstance(s, int) for s in sizes)


def multiple(size: Any, rows: Any) -> int | None:
    """How many times the batch size a size is; None where it is none of that."""
    if isinstance(size, int):
        return None
    share = sympy.cancel(size.node.expr / rows.node.expr)
    return int(share) if share.is_Integer else None


@dataclass
class Builder:
    """The graph so far."""

    root: nn.Module = field(default_factory=nn.Module)
    graph: fx.Graph = field(default_factory=fx.Graph)
    rounds: int = 0
    """Of loops, written out so far; those of a loop within another are as many as both together."""
    _sizes: ShapeEnv = field(default_factory=ShapeEnv)
    _of_kernels: set[Any] = field(default_factory=set)
    _constants: dict[int, tuple[torch.Tensor, fx.Node]] = field(default_factory=dict)

    @cached_property
    def _mode(self) -> FakeTensorMode:
        # Weights are real tensors; they are let in beside the fakes.
        return FakeTensorMode(shape_env=self._sizes, allow_non_fake_inputs=True)

    @cached_property
    def rows(self) -> Any:
        """The free batch size, one for all inputs (`torch.SymInt`)."""
        source = ConstantSource("rows")
        symbol = self._sizes.create_symbol(_TRACED_BATCH, source=source, dynamic_dim=DimDynamic.DYNAMIC)
        return self._sizes.create_symintnode(symbol, hint=_TRACED_BATCH, source=source)

    def placeholder(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> fx.Node:
        """A graph input; -1 in ``shape`` is the free batch size."""
        # fx takes Python's identifiers; names of ONNX are any text.
        node = self.graph.placeholder(_INVALID.sub("_", name).replace(".", "_"))
        with self._mode:
            node.meta["val"] = torch.empty([self.rows if s < 0 else s for s in shape], dtype=dtype)
        return node

    def tie(self) -> str | None:
        """What ties the batch to some sizes and not to others, of all that was decided so far; None where nothing does.

        Decisions are kept as they fell for one batch. An inequality with one size (``Ne``) chose the general way; and
        torch's own (``>= 16``) choose a kernel, not a shape.
        """
        if self._sizes.replacements:
            return ", ".join(f"{symbol} = {value}" for symbol, value in self._sizes.replacements.items())
        decided = (guard.expr for guard in self._sizes.guards)
        open_ = (e for e in decided if not isinstance(e, sympy.Ne) and e not in self._of_kernels)
        return next((str(expression) for expression in open_ if not _holds(expression)), None)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Operand:
        """Call a torch function now if every operand is a constant, else add it to the graph."""
        return cast(Operand, self._call(function, args, kwargs))

    def several(self, count: int, function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Operand, ...]:
        """The first ``count`` results of a function that returns several."""
        results = self._call(function, args, kwargs)
        if not isinstance(results, fx.Node):
            return tuple(results)[:count]
        return tuple(self.call(operator.getitem, results, i) for i in range(count))

    def _call(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if not _has_node((args, kwargs)):
            with torch.no_grad():
                return function(*args, **kwargs)
        nodes, named = self._as_nodes(args), self._as_nodes(kwargs)
        node = self.graph.call_function(function, nodes, named)
        return self._inferred(node, function, args, kwargs)

    def module(self, name: str, layer: nn.Module, *args: Operand) -> Operand:
        """Call a layer now if every operand is a constant, else add it to the graph under a free ``name``."""
        layer.eval()
        if not _has_node(args):
            with torch.no_grad():
                return cast(Operand, layer(*args))
        path = self._free_path(name)
        _attach(self.root, path, layer)
        node = self.graph.call_module(path, self._as_nodes(args))
        return self._inferred(node, layer, args, {})

    def again(self, earlier: fx.Node, *args: Operand) -> Operand:
        """Call the layer of an earlier call once more, with the same weights."""
        layer = self.root.get_submodule(str(earlier.target))
        if not _has_node(args):
            with torch.no_grad():
                return cast(Operand, layer(*args))
        node = self.graph.call_module(str(earlier.target), self._as_nodes(args))
        return self._inferred(node, layer, args, {})

    def fake(self, value: Any) -> Any:
        """The shape-carrying tensor (or tuple of them) behind a value."""
        return value.meta["val"] if isinstance(value, fx.Node) else value

    def shape(self, value: Operand) -> tuple[Any, ...]:
        """Sizes as int, or SymInt where they depend on the batch."""
        return tuple(int(s) if not isinstance(s, torch.SymInt) else s for s in self.fake(value).shape)

    def rank(self, value: Operand) -> int:
        """Number of axes."""
        return len(self.fake(value).shape)

    def dtype(self, value: Operand) -> torch.dtype:
        """Element type."""
        return cast(torch.dtype, self.fake(value).dtype)

    def under_fakes(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What a function would return, shapes only, without adding it to the graph.

        By the Python dispatcher: what torch's own C++ composes of other operations reads sizes as plain numbers, which
        would fix the free one (``functional.pad``, ``interpolate``).
        """
        # What torch decides from here on is the function's, such as a kernel for 16 rows and more.
        before = len(self._sizes.guards)
        with self._mode, enable_python_dispatcher(), torch.no_grad():
            result = function(*_mapped(args, self.fake), **_mapped(kwargs, self.fake))
        # An equality fixes a size even where a kernel asks for it.
        self._of_kernels.update(g.expr for g in self._sizes.guards[before:] if not isinstance(g.expr, sympy.Eq))
        return result

    def filled(self, sizes: Sequence[Any], value: Any, dtype: torch.dtype) -> Operand:
        """A tensor of one value with the batch size on one axis, made from an input: no size is read at run time.

        Raises:
            ValueError: more than one size depends on the batch, or none is the batch size itself.
        """
        free = [i for i, s in enumerate(sizes) if not isinstance(s, int)]
        if len(free) == 1 and free[0] > 0:
            # The batch first, as inputs have it, and back to its place at the end.
            order = [free[0], *(i for i in range(len(sizes)) if i != free[0])]
            ordered = self.filled([sizes[i] for i in order], value, dtype)
            return self.call(torch.permute, ordered, [order.index(i) for i in range(len(sizes))])
        source = next(n for n in self.graph.nodes if n.op == "placeholder" and not is_static(self.shape(n)))
        if is_static(sizes) or not is_static(sizes[1:]) or sizes[0] != self.shape(source)[0]:
            raise ValueError("sizes that depend on the batch, and not one alone that is its size")
        # (rows,): only the shape matters, the values are multiplied by 0.
        first = source
        while self.rank(first) > 1:
            first = cast(fx.Node, self.call(torch.select, first, 1, 0))
        # A missing value times zero would stay missing.
        zeros = self.call(torch.mul, self.call(torch.Tensor.to, self.call(torch.isnan, first), torch.float32), 0.0)
        column = self.call(torch.reshape, self.call(torch.add, zeros, 0.0), [-1] + [1] * (len(sizes) - 1))
        wide = self.call(torch.Tensor.expand, column, [-1, *sizes[1:]]) if any(s != 1 for s in sizes[1:]) else column
        if dtype in {torch.float32, torch.bool}:
            full = self.call(torch.add, wide, float(value))
            return full if dtype == torch.float32 else self.call(torch.Tensor.to, full, dtype)
        # The value is added in its own type: float32 has other numbers from 2^24 on.
        # torch adds no unsigned numbers of more than a byte.
        own = torch.int64 if dtype in {torch.uint16, torch.uint32, torch.uint64} else dtype
        full = self.call(torch.add, self.call(torch.Tensor.to, wide, own), value)
        return full if own == dtype else self.call(torch.Tensor.to, full, dtype)

    def constant(self, tensor: torch.Tensor, name: str) -> fx.Node:
        """A constant as a node: a buffer that is read with get_attr."""
        # By identity: nodes that share a weight share its buffer. The tensor is kept, or its id might be used again.
        if id(tensor) not in self._constants:
            path = self._free_path(name)
            parent, leaf = _parent_of(self.root, path)
            # safetensors, which the graph is stored in, takes no strided views.
            parent.register_buffer(leaf, tensor.contiguous())
            node = self.graph.get_attr(path)
            node.meta["val"] = tensor
            self._constants[id(tensor)] = (tensor, node)
        return self._constants[id(tensor)][1]

    def finish(self, outputs: Sequence[Operand]) -> fx.GraphModule:
        """The module; it returns a tensor where there is one output, else a tuple."""
        results = tuple(o if isinstance(o, fx.Node) else self.constant(o, "constant") for o in outputs)
        self.graph.output(results[0] if len(results) == 1 else results)
        module = fx.GraphModule(self.root, self.graph).eval()
        module.graph.eliminate_dead_code()
        module.delete_all_unused_submodules()
        module.recompile()
        return module

    def _inferred(self, node: fx.Node, function: Callable[..., Any], args: Any, kwargs: Any) -> fx.Node:
        node.meta["val"] = self.under_fakes(function, *args, **kwargs)
        return node

    def _as_nodes(self, value: Any) -> Any:
        return _mapped(value, lambda v: self.constant(v, "constant") if isinstance(v, torch.Tensor) else v)

    def _free_path(self, name: str) -> str:
        # A bare number may stay: it names a child of nn.Sequential.
        parts = [p if not p[:1].isdigit() or p.isdigit() else f"_{p}" for p in _INVALID.sub("_", name).split(".") if p]
        path = ".".join(parts) or "layer"
        taken = {n for n, _ in self.root.named_modules()} | {n for n, _ in self.root.named_buffers()}
        candidate, count = path, 0
        while candidate in taken or _crosses_leaf(self.root, candidate):
            count += 1
            candidate = f"{path.replace('.', '_')}_{count}"
        return candidate


def _holds(expression: Any) -> bool:
    """Whether what was decided for the traced batch is so for others."""
    # An expression that stays symbolic is not `true` either.
    return all(expression.subs(dict.fromkeys(expression.free_symbols, size)) == sympy.true for size in _OTHER_BATCHES)


def _crosses_leaf(root: nn.Module, path: str) -> bool:
    """Whether the path would go through a buffer or into a layer of torch's own."""
    current: Any = root
    *parents, leaf = path.split(".")
    for part in parents:
        if not hasattr(current, part):
            return False
        current = getattr(current, part)
        # Only containers that `_parent_of` makes may hold more.
        if type(current) is not nn.Module:
            return True
    return hasattr(current, leaf)


def _parent_of(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    *parents, leaf = path.split(".")
    current = root
    for part in parents:
        if not hasattr(current, part):
            current.add_module(part, nn.Module())
        current = getattr(current, part)
    return current, leaf


def _attach(root: nn.Module, path: str, layer: nn.Module) -> None:
    parent, leaf = _parent_of(root, path)
    parent.add_module(leaf, layer)


def _has_node(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_has_node(v) for v in value)
    if isinstance(value, dict):
        return any(_has_node(v) for v in value.values())
    if isinstance(value, slice):
        return any(_has_node(v) for v in (value.start, value.stop, value.step))
    return isinstance(value, fx.Node)


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        return type(value)(_mapped(v, change) for v in value)
    if isinstance(value, dict):
        return {k: _mapped(v, change) for k, v in value.items()}
    return change(value)
