"""The figures of a report: name in tracking, title, unit and how each reads, once for every renderer."""

from collections.abc import Callable
from typing import NamedTuple

from edgewright.measurement import Accuracy, Emulation, Energy, Latency, Measurement, ValidationReport

__all__ = [
    "FIGURES",
    "NOT_MEASURED",
    "Figure",
    "accuracy_text",
    "agreement_text",
    "budget_rows",
    "emulated_memory_text",
    "energy_text",
    "figure_text",
    "formatted",
    "kilobytes",
    "metric_title",
    "percentiles",
    "tracked",
]

NOT_MEASURED = "not measured"


class Figure(NamedTuple):
    """One figure of a `Measurement`; ``value`` gives None where it was not measured."""

    name: str
    title: str
    unit: str
    form: str
    value: Callable[[Measurement], float | None]

    @property
    def head(self) -> str:
        """Title and unit, over a column."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    def text(self, measured: Measurement) -> str:
        """The figure with its unit; an accuracy with its interval."""
        if self.name == "accuracy":
            return accuracy_text(measured.accuracy)
        value = self.value(measured)
        return NOT_MEASURED if value is None else f"{formatted(value, self.form)} {self.unit}".rstrip()


def _latency(name: str) -> Callable[[Measurement], float | None]:
    return lambda measured: getattr(measured.latency, name) if measured.latency else None


def _one_thread(name: str) -> Callable[[Measurement], float | None]:
    return lambda measured: getattr(measured.one_thread, name) if measured.one_thread else None


FIGURES = (
    Figure("size_bytes", "size on disk", "B", "{:,.0f}", lambda m: m.artifact.size_bytes),
    Figure("download_bytes", "download", "B", "{:,.0f}", lambda m: m.download_bytes),
    Figure("accuracy", "accuracy", "", "{:.4f}", lambda m: m.accuracy.value if m.accuracy else None),
    *(Figure(f"latency_{p}_ms", f"latency {p}", "ms", "{:.4g}", _latency(f"{p}_ms")) for p in ("p50", "p95", "p99")),
    *(
        Figure(f"one_thread_{p}_ms", f"latency {p}, one thread", "ms", "{:.4g}", _one_thread(f"{p}_ms"))
        for p in ("p50", "p95", "p99")
    ),
    Figure("load_ms", "load", "ms", "{:.4g}", lambda m: m.load_ms),
    Figure("first_ms", "first inference", "ms", "{:.4g}", lambda m: m.first_ms),
    Figure("peak_memory_mb", "peak memory", "MB", "{:.0f}", lambda m: m.peak_memory_mb),
    Figure("added_memory_mb", "memory added by load and run", "MB", "{:.1f}", lambda m: m.added_memory_mb),
    Figure("max_difference", "largest difference from the source", "", "{:.3g}", lambda m: m.parity.max_absolute),
)


_FORMS = {figure.name: figure.form for figure in FIGURES}


def figure_text(name: str, value: float | None, absent: str = NOT_MEASURED) -> str:
    """A value of the figure of that name, without its unit.

    >>> figure_text("added_memory_mb", 1.25), figure_text("size_bytes", 85200), figure_text("load_ms", None)
    ('1.2', '85,200', 'not measured')
    """
    return formatted(value, _FORMS[name], absent)


def tracked(measured: Measurement) -> dict[str, float]:
    """The figures by name, for tracking; what was not measured is left out."""
    values = {figure.name: figure.value(measured) for figure in FIGURES}
    return {name: float(value) for name, value in values.items() if value is not None}


def formatted(value: float | None, form: str = "{:.4g}", absent: str = NOT_MEASURED) -> str:
    """A number, or that there is none."""
    return absent if value is None else form.format(value)


def kilobytes(size: int) -> str:
    """Bytes in thousands, as the tables show them."""
    return f"{size / 1000:,.1f} kB"


def accuracy_text(accuracy: Accuracy | None) -> str:
    """``97.78% (96.1 to 98.9)`` or ``R² 0.913 (0.887 to 0.935)``: metric, value and 95% interval."""
    if accuracy is None:
        return NOT_MEASURED
    if accuracy.metric == "accuracy":
        return f"{accuracy.value:.2%} ({100 * accuracy.low:.1f} to {100 * accuracy.high:.1f})"
    return f"{metric_title(accuracy)} {accuracy.value:.4g} ({accuracy.low:.4g} to {accuracy.high:.4g})"


def metric_title(accuracy: Accuracy | None) -> str:
    """How the metric is called in print: a function of the user's own by its name."""
    if accuracy is None:
        return ""
    return "R²" if accuracy.metric == "r2" else accuracy.metric.rpartition(":")[2]


def percentiles(latency: Latency | None) -> str:
    """``0.123 / 0.145``: p50 and p95, ms."""
    if latency is None:
        return NOT_MEASURED
    return f"{figure_text('latency_p50_ms', latency.p50_ms)} / {figure_text('latency_p95_ms', latency.p95_ms)}"


def agreement_text(share: float) -> str:
    """The share (0-1) of rows with the same decision: ``99.812%``."""
    return f"{share:.3%}"


def energy_text(energy: Energy) -> str:
    """What one inference takes: ``12.3 mJ``."""
    return f"{1000 * energy.joules:.3g} mJ"


def emulated_memory_text(emulation: Emulation) -> str:
    """The peak on an emulated device of so much memory: ``61 MB of 512 MB``; empty where it was not measured."""
    if emulation.peak_memory_mb is None or emulation.device_memory_mb is None:
        return ""
    return f"{figure_text('peak_memory_mb', emulation.peak_memory_mb)} MB of {emulation.device_memory_mb} MB"


def budget_rows(report: ValidationReport) -> list[dict[str, str]]:
    """One row a limit: figure, limit, measured, margin, status."""
    return [
        {
            "figure": line.figure,
            "limit": f"{line.limit:.4g} {line.unit}",
            "measured": formatted(line.measured, f"{{:.4g}} {line.unit}"),
            "margin": formatted(line.margin, f"{{:+.4g}} {line.unit}", absent=""),
            "status": line.status,
        }
        for line in report.lines
    ]
