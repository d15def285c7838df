"""A diagnosis as one self-contained page: the culprit first, then a plot and a table of every layer."""

import math
from collections.abc import Iterator

from edgewright.export.diagnosis_report import LayerDifference
from edgewright.report import charts
from edgewright.report.html import Header, Part, Section, TextTable, page
from edgewright.validate.diagnosis import Diagnosed, verdict

__all__ = ["HEADS", "cells", "diagnosis_html"]

HEADS = ("layer", "kind", "operator", "dtype", "SNR dB", "largest difference", "its own SNR dB", "verdict")
_TOP_DB = 160.0  # float32 rounds at 2^-24, 144 dB below


def cells(comparison: Diagnosed, layer: LayerDifference) -> tuple[str, ...]:
    """A layer's row, as text."""
    return (
        layer.layer,
        layer.kind,
        layer.operator,
        layer.dtype,
        _ratio(layer.snr_db),
        "" if math.isnan(layer.largest) else f"{layer.largest:.2g}",
        _ratio(layer.own_snr_db),
        verdict(comparison, layer),
    )


def _ratio(snr_db: float) -> str:
    if math.isnan(snr_db):
        return ""
    if math.isinf(snr_db):
        return "exact" if snr_db > 0 else "lost"
    return f"{snr_db:.1f}"


def diagnosis_html(comparison: Diagnosed, title: str) -> str:
    """The page, without script and without anything from the network."""
    kind, word = ("met", "agrees with its model") if comparison.holds else ("missed", "disagrees with its model")
    outputs = [f"output {name}: {difference}" for name, difference in comparison.outputs.items()]
    further = [culprit.sentence() for culprit in comparison.diagnosis.culprits[1:]]
    header = Header(
        kind,
        word,
        "" if comparison.holds else comparison.diagnosis.sentence(),
        (("outputs", [*outputs, *further]), ("notes", comparison.notes)),
    )
    figures = TextTable(HEADS, [cells(comparison, layer) for layer in comparison.diagnosis.layers])
    return page(title, (Section("Layer by layer", tuple(_plot(comparison))), Section("Figures", (figures,))), header)


def _plot(comparison: Diagnosed) -> Iterator[Part]:
    yield (
        "Bars: signal over error of the file as it runs, dB. Marks: of the operator alone, from the model's own "
        f"values. On the {comparison.diagnosis.rows} of {comparison.rows} rows that are farthest off; limit: "
        f"{comparison.limit}."
    )
    # A layer that was fused into another has no value of its own in the file.
    drawn = [
        (layer.layer, layer.snr_db, layer.own_snr_db, "wrong" if verdict(comparison, layer) == "wrong" else "candidate")
        for layer in comparison.diagnosis.layers
        if layer.value
    ]
    yield charts.levels(drawn, _TOP_DB, "dB", "Signal over error of each layer")
