from pathlib import Path

import pytest

from edgewright.artifact import Artifact, Format
from edgewright.measurement import (
    Accuracy,
    AccuracyDrop,
    ClassAccuracy,
    Cost,
    Emulation,
    Evaluation,
    Interval,
    Latency,
    Parity,
    Performance,
    Verdict,
)
from edgewright.profile import Budget
from edgewright.validate import benefit, judge

MB = 1 << 20
NO_BUDGET = Budget()


def artifact(size: int) -> Artifact:
    return Artifact(path=Path("model.onnx"), format=Format.ONNX, digest=f"{size:064x}", size_bytes=size)


def evaluation(drop: float = 0.0, p_value: float = 1.0, *, ran: bool = True) -> Evaluation:
    accuracy = Accuracy(metric="accuracy", value=0.9, low=0.88, high=0.92, rows=1000)
    return Evaluation(
        artifact=artifact(1),
        source_accuracy=accuracy,
        accuracy=accuracy if ran else None,
        drop=AccuracyDrop(
            percent=drop, low_percent=drop - 0.5, high_percent=drop + 0.5, p_value=p_value, test="McNemar mid-p"
        )
        if ran
        else None,
        parity=Parity(checked_by="test", rows=1000) if ran else Parity(checked_by=None),
        not_measured=() if ran else ("accuracy and parity: no evaluator",),
    )


def cost(size: int, download: int, p95: float | None = 2.0) -> Cost:
    latency = p95 and Latency(p50_ms=p95 / 2, p90_ms=p95, p95_ms=p95, p99_ms=p95, mean_ms=p95, min_ms=p95 / 4, runs=100)
    return Cost(
        artifact=artifact(size),
        download_bytes=download,
        latency=latency or None,
        added_memory_mb=20.0 if p95 else None,
        peak_memory_mb=80.0 if p95 else None,
    )


def performance(
    before: Cost, after: Cost, verdict: Verdict = "no difference that this machine can show"
) -> Performance:
    ratio = Interval(value=0.5, low=0.45, high=0.55) if verdict == "faster" else Interval(value=1, low=0.97, high=1.03)
    return Performance(
        target="this machine",
        runtime="onnxruntime 1.32",
        baseline=before,
        candidate=after,
        ratio=None if verdict == "not measured" else ratio,
        noise=None if verdict == "not measured" else Interval(value=1, low=0.98, high=1.02),
        verdict=verdict,
    )


SAME = performance(cost(4 * MB, 3 * MB), cost(4 * MB, 3 * MB))


def test_every_limit_is_held_against_its_own_figure() -> None:
    budget = Budget(max_latency_ms=1.5, max_memory_mb=30, max_size_mb=3, max_accuracy_drop_percent=0.5)
    report = judge(evaluation(), evaluation(0.2), SAME, budget, 1.0)
    assert [(line.figure, line.status) for line in report.lines] == [
        ("p95 latency", "missed"),
        ("added memory", "met"),
        ("size on disk", "missed"),
        ("accuracy drop", "met"),
    ]
    assert not report.passed
    assert [line.sentence() for line in report.violations] == [
        "p95 latency 2 ms misses its limit of 1.5 ms by 0.5",
        "size on disk 4 MB misses its limit of 3 MB by 1",
    ]
    assert report.lines[1].margin == pytest.approx(10.0)


def test_recipe_limits_the_drop_where_the_budget_does_not() -> None:
    report = judge(evaluation(), evaluation(1.2, 0.01), SAME, NO_BUDGET, 1.0)
    assert [line.sentence() for line in report.violations] == [
        "accuracy drop 1.2 percentage points misses its limit of 1 percentage points by 0.2"
    ]
    assert judge(evaluation(), evaluation(1.2, 0.01), SAME, Budget(max_accuracy_drop_percent=2), 1.0).passed


def test_drop_that_could_be_chance_is_said_to_be() -> None:
    report = judge(evaluation(), evaluation(1.2, 0.4), SAME, NO_BUDGET, 1.0)
    assert not report.passed
    assert "cannot tell it from chance" in report.notes[0]


def test_unmeasured_figure_is_neither_met_nor_missed() -> None:
    unmeasured = performance(cost(MB, MB, None), cost(MB, MB, None), "not measured")
    report = judge(evaluation(ran=False), evaluation(ran=False), unmeasured, Budget(max_latency_ms=5), 1.0)
    assert {line.status for line in report.lines} == {"not measured"}
    assert report.passed
    assert "p95 latency: not measured, limit 5 ms" in report.notes
    assert report.candidate.not_measured == ("accuracy and parity: no evaluator",)


def test_smaller_or_faster_is_a_benefit() -> None:
    smaller = performance(cost(4 * MB, 3 * MB), cost(MB, MB))
    found = benefit(evaluation(), evaluation(), smaller, 1.0)
    assert found.useful
    assert found.cause == "75% smaller on disk, 67% smaller to download"
    faster = performance(cost(4 * MB, 3 * MB), cost(4 * MB, 3 * MB), "faster")
    assert benefit(evaluation(), evaluation(), faster, 1.0).cause == "faster"


def test_neither_smaller_nor_faster_is_no_benefit_with_its_cause() -> None:
    found = benefit(evaluation(), evaluation(), SAME, 1.0)
    assert not found.useful
    assert found.cause.startswith("neither smaller (disk x1.000, download x1.000) nor faster")


def test_loss_beyond_chance_and_limit_undoes_the_benefit() -> None:
    smaller = performance(cost(4 * MB, 3 * MB), cost(MB, MB), "faster")
    found = benefit(evaluation(), evaluation(3.0, 0.001), smaller, 1.0)
    assert not found.useful
    assert "accuracy falls by 3.00 percentage points" in found.cause
    assert benefit(evaluation(), evaluation(3.0, 0.2), smaller, 1.0).useful
    assert benefit(evaluation(), evaluation(0.5, 0.001), smaller, 1.0).useful


def test_core_on_which_it_does_not_run_is_a_missed_limit() -> None:
    found = (Emulation(core="cortex-a53", failure="the process was ended by SIGILL"), Emulation(core="cortex-a76"))
    report = judge(evaluation(), evaluation(), SAME, NO_BUDGET, 1.0, found, ("a note",))
    assert not report.passed
    assert [line.sentence() for line in report.violations] == [
        "emulated cortex-a53 1 failures misses its limit of 0 failures by 1"
    ]
    assert report.notes == ("cortex-a53: the process was ended by SIGILL", "a note")


def test_a_class_that_loses_too_much_misses_its_limit_though_the_average_holds() -> None:
    table = (
        ClassAccuracy(label="churned", rows=40, source=0.9, candidate=0.7),
        ClassAccuracy(label="stayed", rows=960, source=0.9, candidate=0.91),
    )
    candidate = evaluation(0.0).model_copy(update={"per_class": table})
    report = judge(evaluation(), candidate, SAME, Budget(max_class_drop_percent=5), 1.0)
    assert [line.sentence() for line in report.violations] == [
        "worst class drop (churned) 20 percentage points misses its limit of 5 percentage points by 15"
    ]
    assert judge(evaluation(), candidate, SAME, NO_BUDGET, 1.0).passed
    smaller = performance(cost(4 * MB, 3 * MB), cost(MB, MB))
    found = benefit(evaluation(), candidate, smaller, 1.0, 5.0)
    assert not found.useful
    assert found.cause == "class 'churned' loses 20.00 percentage points on its 40 rows, allowed is 5"
    assert benefit(evaluation(), candidate, smaller, 1.0).useful


def test_a_class_limit_of_a_regressor_is_not_measured() -> None:
    report = judge(evaluation(), evaluation(), SAME, Budget(max_class_drop_percent=5), 1.0)
    assert [line.status for line in report.lines if line.figure == "worst class drop"] == ["not measured"]


def test_causes_stand_beside_the_gain_and_beside_the_lack_of_one() -> None:
    smaller = performance(cost(4 * MB, 3 * MB), cost(4 * MB, MB))
    assert benefit(evaluation(), evaluation(), smaller, 1.0, None, ("zeros are dense",)).cause == (
        "67% smaller to download; zeros are dense"
    )
    assert benefit(evaluation(), evaluation(), SAME, 1.0, None, ("zeros are dense",)).cause.endswith(
        "; zeros are dense"
    )


def test_file_that_grew_is_said_to_with_all_its_sizes() -> None:
    grown = performance(cost(1000, 900), cost(1100, 800), "faster")
    found = benefit(evaluation(), evaluation(), grown, 1.0)
    assert found.useful
    assert found.cause == (
        "11% smaller to download, faster; it grew: on disk +10% (1,000 B, then 1,100 B), "
        "to download -11% (900 B, then 800 B)"
    )


def test_limit_of_size_decides_whether_a_file_may_grow() -> None:
    grown = performance(cost(MB, MB), cost(2 * MB, MB), "faster")
    refused = benefit(evaluation(), evaluation(), grown, 1.0, max_size_mb=1.5)
    assert not refused.useful
    assert refused.cause.startswith("grows beyond 1.5 MB on disk; it grew: on disk +100%")
    assert benefit(evaluation(), evaluation(), grown, 1.0, max_size_mb=2.0).useful
    shrunk = performance(cost(4 * MB, MB), cost(3 * MB, MB))
    assert benefit(evaluation(), evaluation(), shrunk, 1.0, max_size_mb=2.0).useful


def test_figure_at_its_limit_meets_it() -> None:
    budget = Budget(max_latency_ms=2, max_memory_mb=20, max_size_mb=4, max_accuracy_drop_percent=1)
    report = judge(evaluation(), evaluation(1.0, 0.01), SAME, budget, 0.1)
    assert {line.status for line in report.lines} == {"met"}
    assert report.passed
    assert report.notes == ()


def test_loss_at_its_limit_is_allowed_and_one_at_the_level_of_significance_is_chance() -> None:
    smaller = performance(cost(4 * MB, 3 * MB), cost(MB, MB))
    assert benefit(evaluation(), evaluation(1.0, 0.001), smaller, 1.0).useful
    assert benefit(evaluation(), evaluation(3.0, 0.05), smaller, 1.0).useful
    assert not benefit(evaluation(), evaluation(3.0, 0.049), smaller, 1.0).useful
    assert benefit(evaluation(), evaluation(ran=False), smaller, 1.0).useful


def test_loss_at_the_level_of_significance_is_said_to_be_chance() -> None:
    notes = judge(evaluation(), evaluation(1.2, 0.05), SAME, NO_BUDGET, 1.0).notes
    assert ["cannot tell it from chance" in note for note in notes] == [True]
    assert judge(evaluation(), evaluation(1.2, 0.049), SAME, NO_BUDGET, 1.0).notes == ()
    for within in (0.5, 1.0):
        assert judge(evaluation(), evaluation(within, 0.5), SAME, NO_BUDGET, 1.0).notes == ()


def test_loss_that_the_baseline_has_too_is_said_to_be_inherited() -> None:
    smaller = performance(cost(4 * MB, 3 * MB), cost(MB, MB))
    for before, inherited in ((3.0, True), (3.5, True), (2.9, False)):
        cause = benefit(evaluation(before), evaluation(3.0, 0.001), smaller, 1.0).cause
        assert cause.endswith("(the baseline loses as much)") == inherited
    assert "baseline" not in benefit(evaluation(ran=False), evaluation(3.0, 0.001), smaller, 1.0).cause


def test_one_percent_is_the_least_saving() -> None:
    for before, after, cause in (
        ((100, 100), (99, 100), "1% smaller on disk"),
        ((100, 100), (100, 99), "1% smaller to"),
    ):
        found = benefit(evaluation(), evaluation(), performance(cost(*before), cost(*after)), 1.0)
        assert found.useful
        assert found.cause.startswith(cause)
    less = performance(cost(1000, 1000), cost(991, 991))
    assert not benefit(evaluation(), evaluation(), less, 1.0).useful


def test_class_that_loses_what_is_allowed_is_no_fault() -> None:
    table = (ClassAccuracy(label="churned", rows=40, source=1.0, candidate=0.75),)
    candidate = evaluation(0.0).model_copy(update={"per_class": table})
    smaller = performance(cost(4 * MB, 3 * MB), cost(MB, MB))
    assert benefit(evaluation(), candidate, smaller, 1.0, 25.0).useful
    assert not benefit(evaluation(), candidate, smaller, 1.0, 24.9).useful


def test_file_that_keeps_its_size_does_not_grow() -> None:
    faster = performance(cost(4 * MB, 3 * MB), cost(4 * MB, 3 * MB), "faster")
    assert benefit(evaluation(), evaluation(), faster, 1.0, max_size_mb=2.0).useful


def test_every_core_that_it_runs_on_is_a_met_limit() -> None:
    report = judge(evaluation(), evaluation(), SAME, NO_BUDGET, 1.0, (Emulation(core="cortex-a76"),))
    line = report.lines[-1]
    assert (line.figure, line.status, line.measured, line.limit) == ("emulated cortex-a76", "met", 0, 0)
    assert report.passed


def test_report_holds_both_files_the_drop_and_the_ratio() -> None:
    faster = performance(cost(4 * MB, 3 * MB), cost(MB, MB), "faster")
    report = judge(evaluation(), evaluation(0.2, 0.3), faster, NO_BUDGET, 1.0)
    assert (report.baseline.artifact.size_bytes, report.candidate.artifact.size_bytes) == (4 * MB, MB)
    assert (report.accuracy_drop_percent, report.drop_low_percent, report.drop_high_percent) == (0.2, -0.3, 0.7)
    assert (report.drop_p_value, report.drop_test) == (0.3, "McNemar mid-p")
    assert (report.latency_ratio, report.latency_ratio_low, report.latency_ratio_high) == (0.5, 0.45, 0.55)
