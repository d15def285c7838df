"""The sensitivity of each layer to int8 as a picture and as a table."""

import csv
from io import StringIO

from edgewright.artifact import Exported
from edgewright.plain_text import csv_text
from edgewright.report import charts

__all__ = ["sensitivity_csv", "sensitivity_svg"]


def sensitivity_csv(exported: Exported) -> bytes:
    """One line a layer, the most sensitive first: layer, signal to noise in dB (empty: no error), int8 or float."""
    text = StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("layer", "signal_to_noise_db", "stored_as"))
    for noise in exported.sensitivity:
        ratio = "" if noise.signal_to_noise_db is None else f"{noise.signal_to_noise_db:.2f}"
        # A name out of a stranger's model: a spreadsheet would compute one that begins with `=`.
        table.writerow((csv_text(noise.layer), ratio, "float" if noise.layer in exported.float_layers else "int8"))
    return text.getvalue().encode()


def sensitivity_svg(exported: Exported) -> bytes:
    """A bar a layer, the most sensitive on top; grey ones were left in float. Layers without any error are left out."""
    left_in_float = set(exported.float_layers)
    rows = [
        (n.layer, n.signal_to_noise_db, "baseline" if n.layer in left_in_float else "candidate")
        for n in exported.sensitivity
        if n.signal_to_noise_db is not None
    ]
    grey = " (grey: left in float)" if left_in_float else ""
    return charts.picture([charts.bars(rows, "dB", f"Signal to noise of each layer's output in int8{grey}")])
