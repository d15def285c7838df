import csv
from pathlib import Path

import pytest

from edgewright.artifact import Precision
from edgewright.codec.download import footprint
from edgewright.measurement import Accuracy, Footprint, Interval, Latency, LedgerEntry
from edgewright.recipe import Distill, Prune, PruneChannels, Quantize
from edgewright.report import charts
from edgewright.report.ledger import LEDGER_HEADS, ledger_csv, ledger_falls, ledger_metrics, ledger_rows
from edgewright.validate.causes import causes
from tests.codec.test_download import sparse_model
from tests.validate.test_verdict import cost, performance


def weight(download: int, non_zero: int = 1000, size: int = 4096, weights: int = 1000) -> Footprint:
    return Footprint(
        size_bytes=size,
        download_bytes=download,
        weights=weights,
        non_zero=non_zero,
        codebook_bytes=10,
        index_bytes=download - 50,
    )


def entry(stage: str, download: int, *, kept: bool = True, ran: bool = True) -> LedgerEntry:
    return LedgerEntry(
        stage=stage,
        kept=kept,
        footprint=weight(download, non_zero=100),
        accuracy=Accuracy(metric="accuracy", value=0.9, low=0.88, high=0.92, rows=500) if ran else None,
        latency=Latency(p50_ms=0.5, p95_ms=0.6, mean_ms=0.5, min_ms=0.4, runs=10) if ran else None,
    )


LEDGER = (entry("float32", 3000), entry("prune", 1000), entry("cluster", 1500, kept=False), entry("quantize", 500))


def test_a_row_holds_every_figure_or_says_that_it_is_not_measured() -> None:
    rows = ledger_rows([*LEDGER, entry("fuse", 400, ran=False)])
    assert {len(row) for row in rows} == {len(LEDGER_HEADS)}
    assert rows[1] == ("prune", "4,096", "1,000", "8.00", "10.0%", "10", "950", "90.00% (88.0 to 92.0)", "0.5")
    assert rows[4][-2:] == ("not measured", "not measured")


def test_what_was_left_out_lowers_nothing_after_it() -> None:
    assert ledger_falls(LEDGER) == [
        ("float32", 0, 3000, True),
        ("prune", 3000, 1000, True),
        ("cluster (left out)", 1000, 1500, False),
        ("quantize", 1000, 500, True),
    ]


def test_the_waterfall_says_each_change() -> None:
    drawn = charts.waterfall(ledger_falls(LEDGER), "B", "download").content
    assert [said in drawn for said in ("3,000 B<", "1,000 B (-66.7%)", "1,500 B (+50.0%)", "500 B (-50.0%)")] == [
        True
    ] * 4


def test_figures_go_to_tracking_and_to_a_table() -> None:
    assert ledger_metrics(LEDGER[1])["bits_per_weight"] == 8.0
    assert "validation_accuracy" not in ledger_metrics(entry("prune", 1, ran=False))
    lines = list(csv.DictReader(ledger_csv(LEDGER).decode().splitlines()))
    assert [(line["stage"], line["kept"], line["download_bytes"]) for line in lines][2] == (
        "cluster",
        "False",
        "1500.0",
    )


def test_a_file_s_footprint_is_counted_in_the_file(tmp_path: Path) -> None:
    content = sparse_model(tmp_path / "m.onnx")
    found = footprint(tmp_path / "m.onnx")
    assert (found.size_bytes, found.weights) == (len(content), 10_000)
    assert found.non_zero_fraction == pytest.approx(0.086, abs=0.01)
    assert 0 < found.codebook_bytes < 10 < found.index_bytes < found.download_bytes
    assert found.bits_per_weight == 8 * found.download_bytes / 10_000
    # The second time it comes from the store.
    assert footprint(tmp_path / "m.onnx") == found


def test_dense_zeros_are_named() -> None:
    same = performance(cost(4096, 3000), cost(4096, 1000))
    (said,) = causes(Prune(), Precision.FLOAT32, weight(3000), weight(1000, non_zero=100), same)
    assert said.startswith("90% of the weights are zero, and the format stores a zero like any value")
    assert causes(Prune(), Precision.FLOAT32, weight(3000), weight(1000, non_zero=100, size=900), same) == ()


def test_int8_that_is_slower_here_is_named() -> None:
    slower = performance(cost(4096, 3000), cost(1024, 1000), "slower")
    assert causes(Quantize(), Precision.INT8, weight(3000), weight(1000), slower) == (
        "int8 is slower than the weights before it on this processor",
    )
    faster = slower.model_copy(update={"verdict": "faster", "ratio": Interval(value=0.5, low=0.4, high=0.6)})
    assert causes(Quantize(), Precision.INT8, weight(3000), weight(1000), faster) == ()


def test_a_smaller_network_that_is_not_faster_is_named() -> None:
    same = performance(cost(4096, 3000), cost(2048, 1500))
    (said,) = causes(PruneChannels(), Precision.FLOAT32, weight(3000), weight(1500, weights=500, non_zero=500), same)
    assert "weights x0.50" in said
    # A student of its teacher's shape has no fewer operations.
    assert causes(Distill(), Precision.FLOAT32, weight(3000), weight(3000), same) == ()
