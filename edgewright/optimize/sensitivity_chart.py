"""The sensitivity of each layer to int8 as a picture and as a table."""

import csv
from io import BytesIO, StringIO

from edgewright.artifact import Exported
from edgewright.plain_text import csv_text

__all__ = ["sensitivity_csv", "sensitivity_png"]

_EIGHT_BITS, _FLOAT = "#1f6feb", "#8a94a6"
_ROW_INCHES = 0.24


def sensitivity_csv(exported: Exported) -> bytes:
    """One line a layer, the most sensitive first: layer, signal to noise in dB (empty: no error), int8 or float."""
    text = StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("layer", "signal_to_noise_db", "stored_as"))
    for noise in exported.sensitivity:
        ratio = "" if noise.signal_to_noise_db is None else f"{noise.signal_to_noise_db:.2f}"
        table.writerow((csv_text(noise.layer), ratio, "float" if noise.layer in exported.float_layers else "int8"))
    return text.getvalue().encode()


def sensitivity_png(exported: Exported) -> bytes:
    """A bar a layer, the most sensitive on top; grey ones were left in float. Layers without any error are left out."""
    # Figure alone, not pyplot: no window system, no global state.
    from matplotlib.figure import Figure

    shown = [(n.layer, n.signal_to_noise_db) for n in exported.sensitivity if n.signal_to_noise_db is not None]
    figure = Figure(figsize=(7, 1.2 + _ROW_INCHES * max(len(shown), 1)), layout="constrained")
    axes = figure.subplots()
    kept = set(exported.float_layers)
    bars = axes.barh(
        [name.replace("$", r"\$") for name, _ in shown],  # between two of them it would read a formula
        [ratio for _, ratio in shown],
        color=[_FLOAT if name in kept else _EIGHT_BITS for name, _ in shown],
    )
    axes.bar_label(bars, fmt="{:.1f}", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    title = "Signal to noise of each layer's output in int8" + (" (grey: left in float)" if kept else "")
    axes.set(title=title, xlabel="dB; less is more sensitive")
    axes.spines[["top", "right"]].set_visible(False)
    content = BytesIO()
    figure.savefig(content, format="png", dpi=110, metadata={"Software": None})
    return content.getvalue()
