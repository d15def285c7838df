"""Judging by a metric: one by name, or a function of the user's own of (outputs, answers) that gives one number.

The user's own runs in a child process.

``outputs`` are arrays (N, ...) float64 by the model's output names, ``answers`` the array of the data file, (N, ...).
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewright.artifact import Metric
from edgewright.data import METRIC_PLUGINS, NAMED_METRICS
from edgewright.errors import InputError
from edgewright.failures import one_line
from edgewright.measurement import Interval
from edgewright.plugins import plugin, plugin_names
from edgewright.statistics.metric_rows import Arrays
from edgewright.statistics.named_metrics import figured, prepared
from edgewright.value import Value

__all__ = ["MetricFigures", "check_answers", "check_metric", "judged_by", "load_metric"]

Function = Callable[[Arrays, NDArray[Any]], float]
ResampledFigures = Callable[[NDArray[np.int64]], list[float]]  # of drawn rows, for each file
_DRAWS = 200
_SEED = 20_260


class MetricFigures(Value):
    """The metric on the source's outputs and on the candidate's, and the loss, each with a paired bootstrap interval of
    200 draws of rows: a draw that the metric has no figure for, as AUC has none for rows of one class, is drawn anew.

    ``loss`` is a share of the source's own figure, positive where the candidate is worse; ``p_value`` that of no loss.
    """

    source: Interval
    candidate: Interval | None = None
    loss: Interval | None = None
    p_value: float | None = None


def load_metric(metric: Metric) -> Function:
    """The function that ``module:function`` or the name of a plugin stands for.

    Raises:
        InputError: there is no such module, function or plugin.
        ProfileError: the plugin cannot be imported.
    """
    module, _, name = metric.name.partition(":")
    if not name:
        if metric.name not in plugin_names(METRIC_PLUGINS):
            known = ", ".join([*NAMED_METRICS, *plugin_names(METRIC_PLUGINS)])
            raise InputError(f"metric {metric.name}: give package.module:function, or one of {known}")
        function: Function = plugin(METRIC_PLUGINS, metric.name, callable, "a function")
        return function
    # First, as a module of that name may stand elsewhere in the path.
    sys.path.insert(0, str(Path(metric.folder).absolute()))
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as e:  # the user's own code
        raise InputError(f"metric {metric.name}: cannot be imported: {type(e).__name__}: {one_line(e)}") from e
    finally:
        sys.path.pop(0)
    if not callable(function):
        raise InputError(f"metric {metric.name}: is of type {type(function).__name__}, not a function")
    return function


def check_metric(metric: Metric) -> None:
    """Raise as `load_metric` where there is no such function."""
    load_metric(metric)


def check_answers(name: str, reference: Arrays, truth: NDArray[Any]) -> None:
    """Whether a metric by name can judge a source's outputs (N, ...) by these answers.

    Raises:
        InputError: another form, or no figure for them.
    """
    _finite(name, figured(name, prepared(name, reference, truth, reference)), len(truth))


def judged_by(metric: Metric, reference: Path, outputs: Path | None, answers: Path) -> MetricFigures:
    """The metric on files of `edgewright_runtime.bench.spec.write_arrays`; ``answers`` holds one array, ``y``.

    Raises:
        InputError: the function fails, or gives no finite number, on all rows or on more than half of the draws.
    """
    from edgewright_runtime.bench.run import read_arrays

    truth = read_arrays(answers)["y"]
    files = [read_arrays(reference), *([read_arrays(outputs)] if outputs else [])]
    figures_of = _by_name(metric.name, files, truth) if metric.name in NAMED_METRICS else _own(metric, files, truth)
    # First on all rows, where nothing may fail.
    figures = [figures_of(np.arange(len(truth)))]
    generator = np.random.default_rng(_SEED)
    failed = 0
    while len(figures) <= _DRAWS:
        drawn = generator.integers(0, len(truth), len(truth))
        try:
            # The same draw for both files: the loss is paired.
            figures.append(figures_of(drawn))
        except InputError as e:
            failed += 1
            if failed > _DRAWS:
                raise InputError(
                    f"{e} (no interval: {failed} of {failed + len(figures) - 1} random draws of the rows have no "
                    "figure; give more rows of what is rare)"
                ) from e
    before, *rest = np.array(figures).T
    if not rest:
        return MetricFigures(source=_interval(before))
    after = rest[0]
    sign = 1 if metric.better == "higher" else -1
    # A figure of 0 has no share to lose: the loss is then in the metric's own unit.
    loss = sign * (before - after) / (abs(before[0]) or 1.0)
    # One more of each: so few draws cannot show a p value of 0.
    p_value = 1.0 if loss[0] <= 0 else (1 + int((loss[1:] <= 0).sum())) / (1 + _DRAWS)
    return MetricFigures(source=_interval(before), candidate=_interval(after), loss=_interval(loss), p_value=p_value)


def _by_name(name: str, files: Sequence[Arrays], truth: NDArray[Any]) -> ResampledFigures:
    """The first of the files is the source's."""
    prepared_files = [prepared(name, arrays, truth, files[0]) for arrays in files]

    def on(drawn: NDArray[np.int64]) -> list[float]:
        return [
            _finite(name, figured(name, tuple(array[drawn] for array in rows)), len(drawn)) for rows in prepared_files
        ]

    return on


def _own(metric: Metric, files: Sequence[Arrays], truth: NDArray[Any]) -> ResampledFigures:
    function = load_metric(metric)

    def on(drawn: NDArray[np.int64]) -> list[float]:
        try:
            values = [float(function({n: a[drawn] for n, a in arrays.items()}, truth[drawn])) for arrays in files]
        except Exception as e:  # the user's own code
            raise InputError(
                f"metric {metric.name}: fails on {len(drawn)} rows: {type(e).__name__}: {one_line(e)}; it is called "
                "with (outputs by name, answers)"
            ) from e
        return [_finite(metric.name, value, len(drawn)) for value in values]

    return on


def _finite(name: str, value: float, rows: int) -> float:
    if not np.isfinite(value):
        raise InputError(f"metric {name}: gives {value} on {rows} rows; a finite number is needed")
    return value


def _interval(figures: NDArray[np.float64]) -> Interval:
    """The first is the value, the others those of the draws."""
    low, high = np.quantile(figures[1:], (0.025, 0.975))
    value = float(figures[0])
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value))
