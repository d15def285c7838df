import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from edgewright.artifact import Artifact, Format
from edgewright.errors import InputError
from edgewright.measurement import ValidationReport
from edgewright.monitor import MonitoringPlan, check_health, find_issues, read_telemetry, summarize
from edgewright.profile import Budget, StepDownPolicy
from edgewright_runtime.bundle.monitoring import STEPS, Monitoring
from edgewright_runtime.health.sketch import QuantileSketch
from edgewright_runtime.health.telemetry import TelemetryRecord
from edgewright_runtime.strict_json import canonical_json
from edgewright_runtime.wire import read
from tests.bundles import report


@pytest.fixture
def validated() -> ValidationReport:
    artifact = Artifact(path=Path("m.onnx"), format=Format.ONNX, digest="0" * 64, size_bytes=1)
    return report(artifact, p95_ms=2.0, accuracy=0.9)


def record(latency_ms: float = 1.0, predictions: int = 100, **change: Any) -> TelemetryRecord:
    sketch = QuantileSketch()
    for _ in range(predictions):
        sketch.add(latency_ms)
    fields = {
        "device": "d1",
        "release": "stable.1",
        "bundle": "b",
        "start_s": 600.0,
        "seconds": 60.0,
        "predictions": predictions,
        "latency": sketch,
        "memory_mb": 8.0,
        "confidence": (0,) * 9 + (predictions,),
        "labelled": predictions,
        "correct": round(0.9 * predictions),
    }
    return TelemetryRecord(**{**fields, **change})


def write(path: Path, *lines: str) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))


def test_bad_lines_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    good = record().to_line()
    more_correct = json.dumps({**json.loads(good), "correct": 101})
    write(tmp_path / "a.jsonl", good, good[:40], "", more_correct, "[]")
    write(tmp_path / "b.jsonl", good)
    (tmp_path / "c.txt").write_text("not telemetry")

    telemetry = read_telemetry(tmp_path)

    assert len(telemetry.records) == 2
    assert telemetry.malformed == 3
    assert telemetry.first_fault.startswith("a.jsonl, line 2: ")


def test_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_telemetry(tmp_path / "nowhere")


def test_devices_are_merged_into_windows_by_release() -> None:
    records = [
        record(1.0, device="d1", start_s=605, errors=1, cpu_percent=30.0),
        record(3.0, device="d2", start_s=610, errors=3),
        record(1.0, start_s=905),
        record(1.0, start_s=605, release="stable.2"),
    ]

    windows = summarize(records, MonitoringPlan(window_s=300))

    assert [(w.start_s, w.release, w.devices, w.predictions) for w in windows] == [
        (600, "stable.1", 2, 200),
        (600, "stable.2", 1, 100),
        (900, "stable.1", 1, 100),
    ]
    assert windows[0].latency_p95_ms == pytest.approx(3.0, rel=0.011)
    assert windows[0].accuracy == pytest.approx(0.9)
    assert (windows[0].errors, windows[0].cpu_percent) == (4, 30.0)


def test_healthy_telemetry_has_no_issues(validated: ValidationReport) -> None:
    assert find_issues(summarize([record()], MonitoringPlan()), MonitoringPlan(), validated) == ()


def test_latency_memory_and_accuracy_are_held_against_validation(validated: ValidationReport) -> None:
    bad = record(3.5, memory_mb=16.0, correct=50)

    issues = find_issues(summarize([bad], MonitoringPlan()), MonitoringPlan(), validated)

    by_kind = {issue.kind: issue for issue in issues}
    assert set(by_kind) == {"high_latency", "high_memory", "low_accuracy"}
    assert by_kind["high_latency"].limit == pytest.approx(3.0)
    assert by_kind["high_latency"].validated == 2.0
    assert by_kind["high_latency"].severity == "warning"
    assert by_kind["high_memory"].severity == "critical"
    assert by_kind["low_accuracy"].validated == 0.9


def test_model_that_fails_in_the_field_is_an_issue(validated: ValidationReport) -> None:
    windows = summarize([record(errors=8)], MonitoringPlan())

    (issue,) = find_issues(windows, MonitoringPlan(), validated)

    assert (issue.kind, issue.severity, issue.value, issue.limit) == ("high_errors", "critical", 0.08, 0.05)
    assert issue.message == "stable.1: 0.08 of the predictions failed over 100 predictions, limit 0.05"


def test_budget_is_the_limit_where_there_is_one(validated: ValidationReport) -> None:
    strict = validated.model_copy(update={"budget": Budget(max_latency_ms=0.5)})

    (issue,) = find_issues(summarize([record()], MonitoringPlan()), MonitoringPlan(), strict)

    assert (issue.kind, issue.limit) == ("high_latency", 0.5)


@pytest.mark.parametrize(
    ("flags", "kinds"),
    [
        ({"enable_performance_tracking": False}, {"low_accuracy"}),
        ({"enable_accuracy_monitoring": False}, {"high_latency", "high_memory"}),
        ({"enable_performance_tracking": False, "enable_accuracy_monitoring": False}, set()),
    ],
)
def test_what_is_switched_off_is_neither_computed_nor_reported(
    validated: ValidationReport, flags: dict[str, bool], kinds: set[str]
) -> None:
    plan = MonitoringPlan(**flags)
    windows = summarize([record(9.0, memory_mb=99.0, correct=0)], plan)

    assert {issue.kind for issue in find_issues(windows, plan, validated)} == kinds
    if not plan.enable_performance_tracking:
        assert (windows[0].latency_p95_ms, windows[0].memory_mb) == (None, None)
    if not plan.enable_accuracy_monitoring:
        assert (windows[0].accuracy, windows[0].labelled) == (None, 0)


def test_few_rows_are_no_evidence(validated: ValidationReport) -> None:
    few = [record(9.0, predictions=5, correct=3)]

    assert find_issues(summarize(few, MonitoringPlan()), MonitoringPlan(), validated) == ()


def test_health_of_a_line_is_not_that_of_another(tmp_path: Path, validated: ValidationReport) -> None:
    lines = ["churn.edge_device.stable", "churn.android.stable", "churn.edge_device.stable.2"]
    write(tmp_path / "a.jsonl", *(record(errors=8, release=f"{line}.1").to_line() for line in lines))

    health = check_health(read_telemetry(tmp_path), MonitoringPlan(), validated, "churn.edge_device.stable")

    assert (health.records, [issue.release for issue in health.issues]) == (1, ["churn.edge_device.stable.1"])


def test_health_says_what_was_not_readable_and_what_is_not_known(tmp_path: Path, validated: ValidationReport) -> None:
    write(tmp_path / "a.jsonl", "nonsense")

    health = check_health(read_telemetry(tmp_path), MonitoringPlan(), validated)

    assert health.healthy
    assert health.malformed == 1
    assert any("no telemetry yet" in note for note in health.notes)


def test_zero_that_is_given_is_no_open_limit(validated: ValidationReport) -> None:
    policy = StepDownPolicy(min_battery_percent=20)

    plan = MonitoringPlan(min_accuracy=0, min_battery_percent=0).with_limits_of(validated, policy)

    assert (plan.min_accuracy, plan.min_battery_percent) == (0, 0)
    assert MonitoringPlan().with_limits_of(validated, policy).min_battery_percent == 20


def test_interval_that_reaches_zero_makes_a_plan(validated: ValidationReport) -> None:
    poor = validated.candidate.accuracy.model_copy(update={"low": 0.0})
    measured = validated.candidate.model_copy(update={"accuracy": poor})

    plan = MonitoringPlan().with_limits_of(validated.model_copy(update={"candidate": measured}))

    assert plan.min_accuracy == 0
    assert MonitoringPlan(**vars(read(Monitoring, json.loads(canonical_json(asdict(plan.on_device()))), "it"))) == (
        replace(plan, steps=STEPS)
    )
