"""A diagnosis as one self-contained page: the culprit first, then a plot and a table of every layer."""

import math
from html import escape
from pathlib import Path

from edgewright.export.diagnosis_report import LayerNoise
from edgewright.validate import charts
from edgewright.validate.diagnosis import Diagnosed, verdict

__all__ = ["HEADS", "cells", "diagnosis_html"]

HEADS = ("layer", "kind", "operator", "dtype", "SNR dB", "largest difference", "its own SNR dB", "verdict")
_STYLE = Path(__file__).with_name("report.css")
_TOP_DB = 160.0  # float32 rounds at 2^-24, 144 dB below


def cells(found: Diagnosed, layer: LayerNoise) -> tuple[str, ...]:
    """A layer's row, as text."""
    return (
        layer.layer,
        layer.kind,
        layer.operator,
        layer.dtype,
        _ratio(layer.snr_db),
        "" if math.isnan(layer.largest) else f"{layer.largest:.2g}",
        _ratio(layer.own_snr_db),
        verdict(found, layer),
    )


def _ratio(snr_db: float) -> str:
    if math.isnan(snr_db):
        return ""
    if math.isinf(snr_db):
        return "exact" if snr_db > 0 else "lost"
    return f"{snr_db:.1f}"


def diagnosis_html(found: Diagnosed, title: str) -> str:
    """The page, without script and without anything from the network."""
    kind, word = ("met", "agrees with its model") if found.holds else ("missed", "disagrees with its model")
    place = "" if found.holds else f"<p>{escape(found.diagnosis.sentence())}</p>"
    further = "".join(f"<li>{escape(c.sentence())}</li>" for c in found.diagnosis.culprits[1:])
    outputs = "".join(f"<li>output {escape(name)}: {escape(told)}</li>" for name, told in found.outputs.items())
    notes = "".join(f"<li>{escape(note)}</li>" for note in found.notes)
    legend = (
        "<p>Bars: signal over error of the file as it runs, dB. Marks: of the operator alone, from the model's own "
        f"values. On the {found.diagnosis.rows} of {found.rows} rows that are farthest off; "
        f"limit: {escape(found.limit)}.</p>"
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE.read_text()}</style></head><body><main>"
        f'<header class="{kind}"><h1>{escape(title)}</h1><p class="verdict">{word}</p>{place}'
        f"<ul>{outputs}{further}</ul>"
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
        + f"</header><section><h2>Layer by layer</h2>{legend}{_plot(found)}</section>"
        f"<section><h2>Figures</h2>{_table(found)}</section></main></body></html>\n"
    )


def _plot(found: Diagnosed) -> str:
    drawn = [
        (layer.layer, layer.snr_db, layer.own_snr_db, "wrong" if verdict(found, layer) == "wrong" else "candidate")
        for layer in found.diagnosis.layers
        if layer.value
    ]
    return charts.levels(drawn, _TOP_DB, "dB", "Signal over error of each layer")


def _table(found: Diagnosed) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in HEADS)
    rows = []
    for layer in found.diagnosis.layers:
        first, *rest = (escape(cell) for cell in cells(found, layer))
        rows.append(f"<tr><th>{first}</th>" + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
