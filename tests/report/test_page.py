"""The page as a browser shows it; what it says is checked without one too."""

import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edgewright.artifact import Artifact, Format
from edgewright.measurement import (
    Accuracy,
    BudgetLine,
    ClassAccuracy,
    ComputePlan,
    Emulation,
    Energy,
    Instructions,
    Latency,
    Measurement,
    Parity,
    PlannedOperator,
    Sustained,
    ValidationReport,
)
from edgewright.profile import Budget
from edgewright.report.markdown import report_markdown
from edgewright.report.page import report_html
from edgewright_runtime.bench.answer import OperatorTime
from tests.report.test_ledger import LEDGER

CHROMIUM = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)
ACCURACY = Accuracy(metric="accuracy", value=0.9, low=0.88, high=0.92, rows=1000)
HOSTILE = "<script>alert(1)</script>"


def measurement(size: int, *, ran: bool = True) -> Measurement:
    samples = tuple(1 + i / 100 for i in range(100))
    return Measurement(
        artifact=Artifact(path=Path("m.onnx"), format=Format.ONNX, digest=f"{size:064x}", size_bytes=size),
        target="this machine",
        accuracy=ACCURACY if ran else None,
        parity=Parity(checked_by="onnxruntime 1.32", rows=1000, max_absolute=0.01, mean_absolute=0.001, agreement=0.999)
        if ran
        else Parity(checked_by=None),
        latency=Latency(
            p50_ms=1.5, p90_ms=1.9, p95_ms=1.95, p99_ms=1.99, mean_ms=1.5, min_ms=1.0, runs=100, sample_ms=samples
        )
        if ran
        else None,
        load_ms=20 if ran else None,
        first_ms=2 if ran else None,
        peak_memory_mb=80 if ran else None,
        added_memory_mb=20 if ran else None,
        noise_percent=1.5,
        download_bytes=size // 2,
        not_measured=() if ran else ("latency: Core ML runs on macOS and iOS only",),
        memory_steps=(("runtime imported", 40.0), ("model loaded", 60.0)) if ran else (),
        operators=(OperatorTime(operator="Conv", calls=2, mean_us=12.5),) if ran else (),
    )


def report(*, passed: bool = True, ran: bool = True) -> ValidationReport:
    line = BudgetLine(
        figure="size on disk", limit=3, measured=2 if passed else 4, unit="MB", status="met" if passed else "missed"
    )
    return ValidationReport(
        source_accuracy=ACCURACY,
        baseline=measurement(4_000_000, ran=ran),
        candidate=measurement(1_000_000, ran=ran),
        accuracy_drop_percent=0.1 if ran else None,
        drop_low_percent=-0.2 if ran else None,
        drop_high_percent=0.4 if ran else None,
        drop_p_value=0.5 if ran else None,
        drop_test="McNemar mid-p",
        latency_ratio=0.5 if ran else None,
        latency_ratio_low=0.45 if ran else None,
        latency_ratio_high=0.55 if ran else None,
        latency_verdict="faster" if ran else "not measured",
        budget=Budget(max_size_mb=3),
        lines=(line,),
        passed=passed,
        per_class=(ClassAccuracy(label=HOSTILE, rows=10, source=0.9, candidate=0.8),),
        environment=(("machine", "x86_64"),),
        sustained=Sustained(seconds=60, low_ms=(1.0, 1.25), temperature_c=(40, 71)) if ran else None,
    )


class Checker(HTMLParser):
    """Tags must close in order, and nothing may be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in {"script", "link", "img", "iframe"}
        assert not {name for name, _ in attrs} & {"src", "href", "onload"}
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize(("passed", "ran"), [(True, True), (False, True), (True, False)])
def test_page_is_whole_and_fetches_nothing(passed: bool, ran: bool) -> None:
    page = report_html(report(passed=passed, ran=ran), model=HOSTILE, device="Pixel 8", ledger=LEDGER)
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert not re.search(r"https?://|url\(|@import", page)


def test_verdict_stands_first_with_its_cause() -> None:
    page = report_html(report(passed=False), model="digits", device="Pixel 8")
    assert (
        page.index("over budget") < page.index("size on disk 4 MB misses its limit of 3 MB by 1") < page.index("<h2>")
    )


def test_a_doubt_about_the_source_stands_before_everything_else() -> None:
    doubted = report(passed=True, ran=True).model_copy(update={"warnings": (f"barely better than chance {HOSTILE}",)})
    page = report_html(doubted, model="m", device="d")
    first_page = page.split("<section>", maxsplit=1)[0]
    assert "barely better than chance &lt;script&gt;" in first_page
    assert HOSTILE not in page
    assert report_markdown(doubted, "m", "d").splitlines()[2].startswith("**Warning:** barely better than chance")
    assert "Warning" not in report_markdown(report(passed=True, ran=True), "m", "d")


def test_what_was_not_measured_is_said_and_nothing_invented() -> None:
    page = report_html(report(ran=False), model="digits", device="iPhone 15")
    assert "Core ML runs on macOS and iOS only" in page
    assert "nothing is claimed of its accuracy" in page
    assert "p50" not in page


def test_heat_is_shown() -> None:
    page = report_html(report(), model="digits", device="Raspberry Pi 5")
    assert "1.250 of the first one's time" in unescape(page)
    assert "40 to 71" in page


def test_emulated_cores_show_counts_and_failures() -> None:
    counted = Instructions(core="cortex-a76", integer=1000, simd=2000, load_store=3000, branch=400)
    found = (
        Emulation(core="cortex-a76", rows=32, max_relative=1e-7, instructions=counted),
        Emulation(core="cortex-a53", failure="the process was ended by SIGILL"),
    )
    judged = report().model_copy(update={"emulations": found})
    page = report_html(judged, model="digits", device="Raspberry Pi 5")
    assert "6,400" in page
    assert "ended by SIGILL" in page
    assert "they are not a time" in page


def test_threads_energy_and_the_whole_device_are_shown() -> None:
    shown = report()
    one = shown.candidate.latency
    assert one is not None
    whole = Emulation(core="4 x cortex-a53, whole device", rows=32, device_memory_mb=512, peak_memory_mb=61.2)
    judged = shown.model_copy(
        update={
            "candidate": shown.candidate.model_copy(update={"one_thread": one.model_copy(update={"p50_ms": 7.125})}),
            "energy": Energy(joules=0.0123, source="9 instructions on cortex-a53", estimated=True),
            "emulations": (whole,),
        }
    )
    page = report_html(judged, model="digits", device="Raspberry Pi 3B+")
    assert "candidate, one thread" in page
    assert "7.125" in page
    assert "12.3 mJ</b> for one inference. Estimate, not measured: 9 instructions on cortex-a53" in page
    assert "took 61 MB of 512" in page
    text = report_markdown(judged, "digits", "Raspberry Pi 3B+")
    assert "| latency p50, one thread | not measured | 7.125 ms |" in text
    assert "whole device: runs" in text
    assert "61 MB of 512 MB" in text
    assert "12.3 mJ, estimated from 9 instructions" in text
    assert "no meter that may be read" not in page
    assert "no meter that may be read" in report_html(shown, model="digits", device="Raspberry Pi 3B+")


def test_core_mls_plan_is_shown_as_an_estimate() -> None:
    plan = ComputePlan(
        units="CPU and Neural Engine",
        devices=(("Neural Engine", 41), ("CPU", 3)),
        unplanned=2,
        costliest=(PlannedOperator(operator="conv", result=HOSTILE, device="Neural Engine", share=0.625),),
    )
    judged = report().model_copy(update={"compute_plan": plan})
    page = report_html(judged, model="digits", device="iPhone 15")
    assert "<th>Neural Engine</th><td>41</td>" in page
    assert "<td>62.5%</td>" in page
    assert "an estimate, not a time" in page
    assert HOSTILE not in page
    assert "Neural Engine for 41, CPU for 3" in report_markdown(judged, "digits", "iPhone 15")
    assert "Core ML" not in report_html(report(), model="digits", device="iPhone 15")


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)")
def test_printed_page_is_whole(tmp_path: Path) -> None:
    page, printed = tmp_path / "report.html", tmp_path / "report.pdf"
    page.write_text(report_html(report(), model="digits", device="Pixel 8"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer", f"--print-to-pdf={printed}"]
    subprocess.run(
        [str(CHROMIUM), *options, f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()],
        capture_output=True,
        timeout=120,
        check=True,
    )
    content = printed.read_bytes()
    assert content.startswith(b"%PDF-")
    assert 2 <= len(re.findall(rb"/Type /Page\b(?!s)", content)) <= 6


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)")
@pytest.mark.parametrize("width", [390, 1200])
def test_browser_shows_the_page_within_its_width(tmp_path: Path, width: int) -> None:
    page = tmp_path / "report.html"
    shown = report()
    slow = OperatorTime(operator="DequantizeLinearOfTheLongName", calls=2, mean_us=1234.5)
    wide = shown.candidate.model_copy(update={"operators": (*shown.candidate.operators, slow)})
    judged = shown.model_copy(update={"candidate": wide})
    content = report_html(judged, model="digits", device="Pixel 8", ledger=LEDGER)
    page.write_text(content.replace("</body>", f"<script>{_PROBE}</script></body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},2000", "--dump-dom"]
    rendered = subprocess.run(
        [str(CHROMIUM), *options, f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    assert re.findall("<title>(.*?)</title>", rendered)[0] == "fits"
    assert rendered.count("<section>") == 12


# No page wider than its window, no text of a chart outside it, none upon another.
_PROBE = """
const wrong = [];
if (document.documentElement.scrollWidth > window.innerWidth + 1) wrong.push('page is wider');
for (const chart of document.querySelectorAll('svg')) {
  const frame = chart.getBoundingClientRect();
  const texts = [...chart.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
  texts.forEach(([said, box], i) => {
    if (box.left < frame.left - 1 || box.right > frame.right + 1) wrong.push('outside: ' + said);
    for (const [other, next] of texts.slice(i + 1))
      if (box.left < next.right && next.left < box.right && box.top < next.bottom - 3 && next.top < box.bottom - 3)
        wrong.push(said + ' upon ' + other);
  });
}
document.title = wrong.length ? wrong.join('; ') : 'fits';
"""


def test_the_ledger_is_a_table_and_a_waterfall_in_page_and_markdown() -> None:
    page = report_html(report(), model="digits", device="Pixel 8", ledger=LEDGER)
    assert "Bytes to download after each technique" in page
    assert "<td>8.00</td>" in page
    assert "Stage by stage" not in report_html(report(), model="digits", device="Pixel 8")
    text = report_markdown(report(), "digits", "Pixel 8", LEDGER)
    assert "| cluster (left out) | 4,096 | 1,500 |" in text
