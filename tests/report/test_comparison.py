from edgewright.report.comparison import ComparedRun, comparison_html, pareto


def made(run_id: str, **metrics: float) -> ComparedRun:
    return ComparedRun(run_id=run_id, name=f"model {run_id}", tags={"device": "pixel_8"}, metrics=metrics)


FAST = made("fast", accuracy=0.9, latency_p50_ms=1.0, size_bytes=100)
RIGHT = made("right", accuracy=0.95, latency_p50_ms=3.0, size_bytes=400)
BEATEN = made("beaten", accuracy=0.9, latency_p50_ms=2.0, size_bytes=100)
UNTIMED = made("untimed", accuracy=0.99, size_bytes=500)


def test_pareto_keeps_what_no_other_beats() -> None:
    runs = (FAST, RIGHT, BEATEN, UNTIMED)
    assert pareto(runs, "latency_p50_ms", "accuracy") == (FAST, RIGHT)
    assert pareto(runs, "size_bytes", "accuracy") == (FAST, RIGHT, BEATEN, UNTIMED)


def test_page_shows_every_run_and_marks_the_best() -> None:
    page = comparison_html((FAST, RIGHT, BEATEN, UNTIMED))
    assert page.count("<tr><th>") == 5  # the heads, and four runs
    assert "not measured" in page
    latency = page.split("<h2>Accuracy against latency</h2>")[1].split("</section>")[0]
    assert latency.count('<circle class="candidate"') == 2
    assert latency.count('<circle class="baseline"') == 1
    assert "http" not in page


def test_points_are_numbered_as_the_rows_and_sizes_are_written_out() -> None:
    twin = made("twin", accuracy=0.95, latency_p50_ms=3.0, size_bytes=297_900)
    page = comparison_html((FAST, RIGHT, twin, UNTIMED))
    latency, size = (
        page.split(f"<h2>Accuracy against {name}</h2>")[1].split("</section>")[0]
        for name in ("latency", "size on disk")
    )
    assert "<th>3. model twin" in page
    assert ">2, 3</text>" in latency  # one upon the other: one label
    assert "297,900 bytes" in size
    assert "e+0" not in page


def test_one_run_alone_is_a_page_too() -> None:
    assert comparison_html((FAST,)).count("<circle") == 2
