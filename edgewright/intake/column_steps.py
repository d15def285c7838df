"""Fitted transformers of numbers as steps that write their own operators: where skl2onnx has none, or wrong ones.

Each is a transformer in place of the fitted one, with the ``width`` of its output and the operators in ``written``.
Runs in a child process: imports scikit-learn.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from edgewright.errors import UnsupportedError
from edgewright.intake.accurate_nodes import Nodes, write_expm1, write_log1p
from edgewright.intake.tables import is_blank

__all__ = ["Filled", "Picked", "Powers", "Splined"]

_FLOAT = 1  # onnx.TensorProto.FLOAT


class Picked(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Columns by their places, in this order: skl2onnx 1.20 leaves all of them in their own order."""

    def __init__(self, places: Sequence[int] = ()) -> None:
        self.places = places

    @property
    def width(self) -> int:
        """Columns of the output."""
        return len(self.places)

    def written(self, nodes: Nodes, x: str) -> str:
        """(N, columns) to (N, width)."""
        return nodes.call("Gather", x, nodes.constant(self.places, np.int64), axis=1)


class Filled(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Missing values filled in column by column, and behind them 1 where one was missing.

    ``missing`` is the number that counts as such, or NaN. ``values`` fill the columns, of which those at ``places`` are
    handed on; ``flagged`` are the columns whose missing values are told.
    """

    def __init__(
        self,
        missing: float = math.nan,
        values: Sequence[float] = (),
        places: Sequence[int] = (),
        flagged: Sequence[int] = (),
    ) -> None:
        self.missing, self.values, self.places, self.flagged = missing, values, places, flagged

    @classmethod
    def of_imputer(cls, imputer: Any) -> "Filled":
        """A SimpleImputer over numbers."""
        values = np.asarray(imputer.statistics_, dtype=np.float64)
        # A column without a value in training has none to fill in, and scikit-learn leaves it out.
        places = np.arange(len(values)) if imputer.keep_empty_features else np.flatnonzero(~np.isnan(values))
        flagged = [] if imputer.indicator_ is None else imputer.indicator_.features_.tolist()
        return cls(_missing(imputer), np.nan_to_num(values).tolist(), places.tolist(), flagged)

    @classmethod
    def of_indicator(cls, indicator: Any) -> "Filled":
        """A MissingIndicator over numbers."""
        return cls(_missing(indicator), flagged=indicator.features_.tolist())

    @property
    def width(self) -> int:
        """Columns of the output."""
        return len(self.places) + len(self.flagged)

    def written(self, nodes: Nodes, x: str) -> str:
        """(N, columns) to (N, width)."""
        # NaN equals nothing, itself included.
        blank = (
            nodes.call("IsNaN", x) if math.isnan(self.missing) else nodes.call("Equal", x, nodes.constant(self.missing))
        )
        blocks = []
        if self.places:
            filled = nodes.call("Where", blank, nodes.constant([self.values]), x)
            blocks.append(_chosen(nodes, filled, self.places, len(self.values)))
        if self.flagged:
            flags = nodes.call("Cast", blank, to=_FLOAT)
            blocks.append(nodes.call("Gather", flags, nodes.constant(self.flagged, np.int64), axis=1))
        return blocks[0] if len(blocks) == 1 else nodes.call("Concat", *blocks, axis=1)


def _chosen(nodes: Nodes, x: str, places: Sequence[int], columns: int) -> str:
    return x if list(places) == list(range(columns)) else Picked(places).written(nodes, x)


def _missing(step: Any) -> float:
    """The number that a step takes for missing.

    Raises:
        UnsupportedError: it is not a number.
    """
    if is_blank(step.missing_values):
        return math.nan
    if isinstance(step.missing_values, str):
        raise UnsupportedError(
            f"{type(step).__name__} with missing_values={step.missing_values!r} over numbers; fit it with a number or "
            "NaN"
        )
    return float(step.missing_values)


class Powers(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A PowerTransformer (Yeo and Johnson 2000; Box and Cox 1964) that lets missing values pass."""

    def __init__(self, positive_only: bool = False, exponents: Any = (), mean: Any = None, scale: Any = None) -> None:
        self.positive_only, self.exponents, self.mean, self.scale = positive_only, exponents, mean, scale

    @classmethod
    def of_transformer(cls, step: Any) -> "Powers":
        """A fitted PowerTransformer."""
        scaler = step._scaler if step.standardize else None
        mean, scale = (None, None) if scaler is None else (scaler.mean_, scaler.scale_)
        return cls(step.method == "box-cox", np.asarray(step.lambdas_), mean, scale)

    @property
    def width(self) -> int:
        """Columns of the output."""
        return len(self.exponents)

    def written(self, nodes: Nodes, x: str) -> str:
        """(N, width) to (N, width)."""
        zero = nodes.constant(0.0)
        if self.positive_only:
            powered = _power(nodes, x, nodes.call("Log", x), self.exponents)
        else:
            # Each side is computed of its own numbers alone: a power of the others is none.
            above = _power_beyond_one(nodes, nodes.call("Max", x, zero), self.exponents)
            # Below zero: -((1 - x) ** (2 - e) - 1) / (2 - e).
            below = _power_beyond_one(nodes, nodes.call("Neg", nodes.call("Min", x, zero)), 2 - self.exponents)
            powered = nodes.call("Sub", above, below)
        if self.mean is not None:
            powered = nodes.call("Sub", powered, nodes.constant([self.mean]))
            powered = nodes.call("Div", powered, nodes.constant([self.scale]))
        return nodes.call("Where", nodes.call("IsNaN", x), x, powered)


def _power_beyond_one(nodes: Nodes, x: str, exponents: NDArray[np.float64]) -> str:
    """((1 + x) ** e - 1) / e of a number that is not below 0."""
    return _power(nodes, nodes.call("Add", x, nodes.constant(1.0)), write_log1p(nodes, x), exponents)


def _power(nodes: Nodes, x: str, logarithm: str, exponents: NDArray[np.float64]) -> str:
    """(x ** e - 1) / e, and log(x) where e is 0."""
    # The bound of scikit-learn and scipy.
    are_zero = np.abs(exponents) < np.spacing(1.0)
    if are_zero.all():
        return logarithm
    # Any exponent but 0: what it gives is dropped below.
    safe = nodes.constant([np.where(are_zero, 1.0, exponents)])
    # x ** e - 1 cancels near 0, and the division by a small e makes the rest large; far from 0, Pow is the more exact.
    less_one = write_expm1(nodes, nodes.call("Mul", logarithm, safe), exponential=nodes.call("Pow", x, safe))
    powered = nodes.call("Div", less_one, safe)
    if not are_zero.any():
        return powered
    # Both are finite where x > 0, so a product with 0 drops the other.
    own, other = nodes.constant([are_zero.astype(np.float64)]), nodes.constant([(~are_zero).astype(np.float64)])
    return nodes.call("Add", nodes.call("Mul", logarithm, own), nodes.call("Mul", powered, other))


class Splined(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A SplineTransformer: in each interval between knots a polynomial of the distance from its start."""

    def __init__(self, splines: Any = (), degree: int = 3, extrapolation: str = "constant", bias: bool = True) -> None:
        self.splines, self.degree, self.extrapolation, self.bias = splines, degree, extrapolation, bias

    @classmethod
    def of_transformer(cls, step: Any) -> "Splined":
        """A fitted SplineTransformer.

        Raises:
            UnsupportedError: it is of degree 0, or refuses what lies beyond its knots.
        """
        if step.degree < 1:
            raise UnsupportedError("SplineTransformer with degree=0; take a KBinsDiscretizer, or a degree above 0")
        if step.extrapolation == "error":
            raise UnsupportedError(
                "SplineTransformer with extrapolation='error': a device cannot refuse a row there; fit it with "
                "'constant' or another one"
            )
        return cls(step.bsplines_, step.degree, step.extrapolation, step.include_bias)

    @property
    def width(self) -> int:
        """Columns of the output."""
        return sum(spline.c.shape[1] - (not self.bias) for spline in self.splines)

    def written(self, nodes: Nodes, x: str) -> str:
        """(N, columns) to (N, width)."""
        blocks = [
            self._block(nodes, nodes.call("Gather", x, nodes.constant([i], np.int64), axis=1), spline)
            for i, spline in enumerate(self.splines)
        ]
        return blocks[0] if len(blocks) == 1 else nodes.call("Concat", *blocks, axis=1)

    def _block(self, nodes: Nodes, x: str, spline: Any) -> str:
        """(N, 1) to (N, splines); a missing value has none."""
        # The `degree` knots beyond either end only shape the outer splines.
        first, last = spline.t[self.degree], spline.t[-self.degree - 1]
        # scikit-learn drops the last spline of a column where there is to be no bias.
        count = spline.c.shape[1] - (not self.bias)
        inside = x
        if self.extrapolation in {"constant", "linear"}:
            inside = nodes.call("Clip", x, nodes.constant(first), nodes.constant(last))
        elif self.extrapolation == "periodic":
            turns = nodes.call("Sub", x, nodes.constant(first))
            whole = nodes.call("Floor", nodes.call("Div", turns, nodes.constant(last - first)))
            inside = nodes.call("Sub", x, nodes.call("Mul", whole, nodes.constant(last - first)))
        splines = self._polynomials(nodes, inside, spline, count)
        if self.extrapolation == "linear":
            # Beyond an end: the value there plus the slope times the distance.
            beyond = nodes.call("Sub", x, inside)
            sides = [nodes.call(kind, beyond, nodes.constant(0.0)) for kind in ("Min", "Max")]
            both = nodes.call("Concat", *sides, axis=1)
            splines = nodes.call(
                "Add", splines, nodes.call("MatMul", both, nodes.constant(self._slopes(spline)[:, :count]))
            )
        return nodes.call("Where", nodes.call("IsNaN", x), nodes.constant(0.0), splines)

    def _polynomials(self, nodes: Nodes, x: str, spline: Any, count: int) -> str:
        knots = spline.t[self.degree : len(spline.t) - self.degree]
        starts, widths = knots[:-1], np.diff(knots)
        # (N, intervals - 1): which inner knots x has reached.
        passed = nodes.call("GreaterOrEqual", x, nodes.constant([starts[1:]])) if len(starts) > 1 else ""
        # (N, 1) of ones, made of x: a constant would not know the number of rows.
        place = nodes.call("Add", nodes.call("Mul", x, nodes.constant(0.0)), nodes.constant([[1.0]]))
        if passed:
            after = nodes.call("Cast", passed, to=_FLOAT)
            # `reached` turns 1 where an interval begins, `ended` where the next one does.
            reached = nodes.call("Concat", place, after, axis=1)
            ended = nodes.call("Concat", after, nodes.call("Sub", place, place), axis=1)
            place = nodes.call("Sub", reached, ended)  # 1 for the interval that holds x
        start = nodes.call("MatMul", place, nodes.constant(starts[:, None]))
        scale = nodes.call("MatMul", place, nodes.constant(_inverse(widths)[:, None]))
        # The share of the interval, 0 to 1, whose powers float32 holds whatever the column's unit is.
        share = nodes.call("Mul", nodes.call("Sub", x, start), scale)
        powers, coefficients = [place], [spline(starts)]
        for power in range(1, self.degree + 1):
            powers.append(nodes.call("Mul", powers[-1], share))
            # Taylor's coefficients at each start, with the interval's width as the unit.
            scaled = spline(starts, nu=power) * widths[:, None] ** power
            coefficients.append(scaled / math.factorial(power))
        joined = nodes.call("Concat", *powers, axis=1)
        return nodes.call("MatMul", joined, nodes.constant(np.concatenate(coefficients)[:, :count]))

    def _slopes(self, spline: Any) -> NDArray[np.float64]:
        """(2, splines): of the lines that go on below the first knot and above the last one."""
        # As scikit-learn: beyond an end only the outer `degree` splines go on, of degree 1 the outer two.
        edge = max(self.degree, 2)
        slopes = np.stack([spline(spline.t[self.degree], nu=1), spline(spline.t[-self.degree - 1], nu=1)])
        slopes[0, edge:], slopes[1, :-edge] = 0.0, 0.0
        return slopes


def _inverse(widths: NDArray[np.float64]) -> NDArray[np.float64]:
    """An interval of no width holds no number."""
    return np.divide(1.0, widths, out=np.zeros_like(widths), where=widths > 0)
