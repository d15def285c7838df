"""Complex numbers as pairs of real ones, and Fourier transforms of known size as products with cosines and sines.

For formats without complex numbers. The discrete transform of n numbers along an axis is a product with the n x n
matrix exp(-2 pi i j k / n), whose real and imaginary parts are constants here. Runs in a child process: imports torch.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgewright.export.static_graph import NodeValues
from edgewright.intake.module_paths import free_name, place

__all__ = ["with_real_pairs"]

_ATEN = torch.ops.aten
_LARGEST = 4096  # a matrix of that size squared is 67 MB


@dataclass(frozen=True)
class _Pair:
    """A complex value; ``imaginary`` is None where it is zero."""

    real: fx.Node
    imaginary: fx.Node | None


class _Unknown(Exception):  # noqa: N818 - never leaves this module
    """An operation that has no form in pairs."""


def with_real_pairs(module: fx.GraphModule, examples: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    """A copy without complex values; the module itself where it has none, or an operation on them has no form here.

    Args:
        module: a graph for the examples' shapes.
        examples: one input each.
    """
    values = NodeValues.of(module, examples)
    if not any(_is_complex(values.env.get(node)) for node in module.graph.nodes):
        return module
    new = copy.copy(module)
    new.graph = fx.Graph()
    # Into an empty graph: an operation without a form, met halfway, leaves the module as it was.
    writer = _Writer(new, values)
    try:
        for node in module.graph.nodes:
            writer.copy(node)
    except _Unknown:
        return module
    new.graph.eliminate_dead_code()
    new.recompile()
    return new


def _is_complex(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_complex()


class _Writer:
    """Copies node by node; ``made`` holds a pair for a complex value."""

    def __init__(self, module: fx.GraphModule, values: NodeValues) -> None:
        self.module, self.values = module, values
        self.made: dict[fx.Node, Any] = {}

    def copy(self, node: fx.Node) -> None:
        """Add what a node computes.

        Raises:
            _Unknown: it takes or gives a complex value in a way that has no form here.
        """
        name = str(node.target).removeprefix("aten.").partition(".")[0]
        given = [self.values.env[n] for n in node.all_input_nodes]
        if not _is_complex(self.values.env.get(node)) and not any(map(_is_complex, given)):
            self.made[node] = self.module.graph.node_copy(node, lambda n: self.made[n])
        elif name in _TRANSFORMS:
            self.made[node] = self._transform(node, _TRANSFORMS[name])
        elif name in _PARTS:
            self.made[node] = _PARTS[name](self, self._pair(node.args[0]))
        elif name in {"mul", "add", "sub"} and len(node.args) == 2 and not node.kwargs:
            self.made[node] = _PAIRWISE[name](self, *map(self._pair, node.args))
        else:
            raise _Unknown

    def call(self, function: Any, *arguments: Any) -> fx.Node:
        """Add an operation."""
        return self.module.graph.call_function(function, arguments)

    def _pair(self, node: Any) -> _Pair:
        if not isinstance(node, fx.Node) or not isinstance(self.values.env[node], torch.Tensor):
            raise _Unknown
        counterpart = self.made[node]
        return counterpart if isinstance(counterpart, _Pair) else _Pair(counterpart, None)

    def _transform(self, node: fx.Node, kind: "_Kind") -> _Pair | fx.Node:
        named = dict(zip(kind.arguments, node.args[1:], strict=False)) | dict(node.kwargs)
        value = self.values.env[node.args[0]]  # type: ignore[index]
        sizes: Any = named.get("n", named.get("s"))
        sizes = [sizes] if isinstance(sizes, int) else sizes
        axes = named.get("dim", kind.axes)
        if axes is None:  # all of them, or the last for which there are sizes
            axes = range(value.dim() - len(sizes), value.dim()) if sizes is not None else range(value.dim())
        axes = [axis % value.dim() for axis in ([axes] if isinstance(axes, int) else axes)]
        # Never of the half of frequencies: it does not tell an odd length from an even one.
        lengths = [self.values.env[node].shape[axis] for axis in axes]
        if kind.half == "out":
            lengths[-1] = sizes[-1] if sizes is not None and sizes[-1] != -1 else value.shape[axes[-1]]
        if max(lengths) > _LARGEST:
            raise _Unknown
        pair = self._pair(node.args[0])
        # From the last axis on: it halves the frequencies of a real input, and the others have less to do. To a real
        # output it leads as well, below and last: what the other axes give is complex.
        for place_, (axis, length) in reversed(list(enumerate(zip(axes, lengths, strict=True)))):
            half = kind.half if place_ == len(axes) - 1 else ""
            if half == "back":
                continue
            matrix = _matrix(length, kind.sign, _scale(length, kind, named.get("norm")), half)
            pair = self._product(pair, axis, _of_rows(matrix, value.shape[axis]))
        if kind.half != "back":
            return pair
        matrix = _matrix(lengths[-1], kind.sign, _scale(lengths[-1], kind, named.get("norm")), "back")
        return self._product(pair, axes[-1], _of_rows(matrix, value.shape[axes[-1]])).real

    def _product(self, pair: _Pair, axis: int, matrix: torch.Tensor) -> _Pair:
        """(a + bi)(c + si) along an axis."""
        cosines, sines = self._constant(matrix.real), self._constant(matrix.imag)
        real, imaginary = (self._along(pair.real, part, axis) for part in (cosines, sines))
        if pair.imaginary is None:
            return _Pair(real, imaginary)
        sine_part, cosine_part = (self._along(pair.imaginary, part, axis) for part in (sines, cosines))
        return _Pair(self.call(_ATEN.sub.Tensor, real, sine_part), self.call(_ATEN.add.Tensor, imaginary, cosine_part))

    def _along(self, value: fx.Node, matrix: fx.Node, axis: int) -> fx.Node:
        turned = self.call(_ATEN.transpose.int, value, axis, -1)
        product = self.call(_ATEN.matmul.default, turned, matrix)
        return self.call(_ATEN.transpose.int, product, axis, -1)

    def _constant(self, matrix: torch.Tensor) -> fx.Node:
        path = free_name(self.module, "fourier")
        place(self.module, path, matrix.to(torch.float32).contiguous())
        return self.module.graph.get_attr(path)

    def zeros(self, like: fx.Node) -> fx.Node:
        """The imaginary part of what is real."""
        return self.call(_ATEN.mul.Scalar, like, 0.0)


@dataclass(frozen=True)
class _Kind:
    """``half``: ``out`` of a real input, whose second half is the first one's mirror; ``back`` to a real output."""

    arguments: Sequence[str]
    axes: Any
    sign: int
    half: str = ""


_ONE, _MANY = ("n", "dim", "norm"), ("s", "dim", "norm")
_TRANSFORMS = {
    "fft_fft": _Kind(_ONE, -1, -1),
    "fft_ifft": _Kind(_ONE, -1, 1),
    "fft_rfft": _Kind(_ONE, -1, -1, "out"),
    "fft_irfft": _Kind(_ONE, -1, 1, "back"),
    "fft_fft2": _Kind(_MANY, (-2, -1), -1),
    "fft_ifft2": _Kind(_MANY, (-2, -1), 1),
    "fft_rfft2": _Kind(_MANY, (-2, -1), -1, "out"),
    "fft_irfft2": _Kind(_MANY, (-2, -1), 1, "back"),
    "fft_fftn": _Kind(_MANY, None, -1),
    "fft_ifftn": _Kind(_MANY, None, 1),
    "fft_rfftn": _Kind(_MANY, None, -1, "out"),
    "fft_irfftn": _Kind(_MANY, None, 1, "back"),
}


def _scale(length: int, kind: _Kind, norm: Any) -> float:
    if norm == "ortho":
        return 1 / math.sqrt(length)
    return 1 / length if (kind.sign > 0) == (norm in {None, "backward"}) else 1.0


def _matrix(length: int, sign: int, scale: float, half: str) -> torch.Tensor:
    """exp(sign 2 pi i j k / n), (given, made) complex128; of half of the frequencies on the side that has them."""
    places = torch.arange(length)
    # The remainder keeps the angles small, and so exact.
    angles = 2 * math.pi * sign * ((places[:, None] * places) % length).double() / length
    matrix = torch.polar(torch.full_like(angles, scale), angles)
    frequencies = length // 2 + 1
    if half == "out":
        return matrix[:, :frequencies]
    if half != "back":
        return matrix
    # (frequencies, n): the real part of the sum alone is wanted, so each frequency stands for its mirror as well; the
    # first, and for even n the last, are their own mirror.
    matrix = matrix[:frequencies]
    matrix[1 : (length + 1) // 2] *= 2  # those of the mirrored half
    return matrix


def _of_rows(matrix: torch.Tensor, given: int) -> torch.Tensor:
    """For ``given`` numbers, which a transform of another size first cuts off or fills up with zeros."""
    missing = max(0, given - len(matrix))
    return torch.cat([matrix[:given], matrix.new_zeros(missing, matrix.shape[1])])


def _absolute(writer: _Writer, pair: _Pair) -> fx.Node:
    if pair.imaginary is None:
        return writer.call(_ATEN.abs.default, pair.real)
    squares = [writer.call(_ATEN.mul.Tensor, part, part) for part in (pair.real, pair.imaginary)]
    return writer.call(_ATEN.sqrt.default, writer.call(_ATEN.add.Tensor, *squares))


def _imaginary(writer: _Writer, pair: _Pair) -> fx.Node:
    return writer.zeros(pair.real) if pair.imaginary is None else pair.imaginary


def _as_real(writer: _Writer, pair: _Pair) -> fx.Node:
    return writer.call(_ATEN.stack.default, [pair.real, _imaginary(writer, pair)], -1)


def _conjugate(writer: _Writer, pair: _Pair) -> _Pair:
    return _Pair(pair.real, None if pair.imaginary is None else writer.call(_ATEN.neg.default, pair.imaginary))


def _multiplied(writer: _Writer, a: _Pair, b: _Pair) -> _Pair:
    def times(x: fx.Node, y: fx.Node) -> fx.Node:
        return writer.call(_ATEN.mul.Tensor, x, y)

    if a.imaginary is None or b.imaginary is None:
        whole, scalar = (b, a.real) if a.imaginary is None else (a, b.real)
        assert whole.imaginary is not None  # noqa: S101 - one of the two is complex
        return _Pair(times(whole.real, scalar), times(whole.imaginary, scalar))
    real = writer.call(_ATEN.sub.Tensor, times(a.real, b.real), times(a.imaginary, b.imaginary))
    return _Pair(real, writer.call(_ATEN.add.Tensor, times(a.real, b.imaginary), times(a.imaginary, b.real)))


def _by_parts(function: Any) -> Callable[[_Writer, _Pair, _Pair], _Pair]:
    def form(writer: _Writer, a: _Pair, b: _Pair) -> _Pair:
        parts = [_imaginary(writer, pair) for pair in (a, b)]
        return _Pair(writer.call(function, a.real, b.real), writer.call(function, *parts))

    return form


_PARTS: dict[str, Callable[[_Writer, _Pair], Any]] = {
    "real": lambda _, pair: pair.real,
    "imag": _imaginary,
    "abs": _absolute,
    "view_as_real": _as_real,
    "conj": _conjugate,
    "_conj": _conjugate,
    "resolve_conj": lambda _, pair: pair,
}
_PAIRWISE: dict[str, Callable[[_Writer, _Pair, _Pair], _Pair]] = {
    "mul": _multiplied,
    "add": _by_parts(_ATEN.add.Tensor),
    "sub": _by_parts(_ATEN.sub.Tensor),
}
