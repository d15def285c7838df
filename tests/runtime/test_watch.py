from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgewright_runtime.bundle.manifest import Calibration
from edgewright_runtime.bundle.monitoring import Monitoring
from edgewright_runtime.health.sensors import Reading, Sensors
from edgewright_runtime.health.sketch import QuantileSketch
from edgewright_runtime.health.telemetry import TelemetryRecord
from edgewright_runtime.health.watch import Issue, Watch
from edgewright_runtime.strain import Level, step_for

PLAN = Monitoring(
    max_latency_p95_ms=10, max_memory_mb=50, min_accuracy=0.8, max_temperature_c=80, min_battery_percent=15
)


def window(latency_ms: float = 1.0, **change: object) -> TelemetryRecord:
    sketch = QuantileSketch()
    for _ in range(100):
        sketch.add(latency_ms)
    fields = {"predictions": 100, "latency": sketch, "memory_mb": 10.0, "confidence": (0,) * 9 + (100,)}
    return TelemetryRecord(
        device="d", release="r", bundle="b", start_s=0, seconds=60, **{"labelled": 0, "correct": 0, **fields, **change}
    )


def kinds(issues: list[Issue]) -> set[str]:
    return {issue.kind for issue in issues}


def test_one_bad_window_is_no_issue_two_are() -> None:
    watch = Watch(PLAN)

    assert watch.judge(window(11), Reading()) == []
    (issue,) = watch.judge(window(11), Reading())
    assert (issue.kind, issue.severity, issue.limit) == ("high_latency", "warning", 10)
    (worse,) = watch.judge(window(16), Reading())
    assert worse.severity == "critical"


def test_an_issue_at_its_limit_does_not_flicker() -> None:
    watch = Watch(PLAN)
    for _ in range(2):
        watch.judge(window(11), Reading())

    states = [bool(watch.judge(window(ms), Reading())) for ms in (9.5, 9.5, 9.5, 8, 8, 11, 8, 8, 8)]

    # 9.5 is below the limit but not by a tenth; three windows at 8 in a row clear it.
    assert states == [True] * 8 + [False]


# Limits of which the margin is a whole number: 72 degrees, 20 percent.
EXACT = Monitoring(max_temperature_c=80, min_battery_percent=18)


def hot(degrees: float) -> Reading:
    return Reading(temperature_c=degrees)


def low(percent: float) -> Reading:
    return Reading(battery_percent=percent, on_mains=False)


@pytest.mark.parametrize(("at", "beyond"), [(hot(80), hot(80.1)), (low(18), low(17.9))])
def test_a_figure_at_its_limit_is_not_bad_one_beyond_it_is(at: Reading, beyond: Reading) -> None:
    watch = Watch(EXACT)

    assert [len(watch.judge_machine(reading)) for reading in (at, at, beyond, beyond)] == [0, 0, 0, 1]


@pytest.mark.parametrize(("bad", "at", "past"), [(hot(81), hot(72), hot(71.9)), (low(17), low(20), low(20.1))])
def test_a_figure_at_the_margin_does_not_end_its_issue_one_past_it_does(
    bad: Reading, at: Reading, past: Reading
) -> None:
    watch = Watch(EXACT)
    for _ in range(2):
        watch.judge_machine(bad)

    assert [len(watch.judge_machine(reading)) for reading in (at, at, at, past, past, past)] == [1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize(("half_again", "more"), [(hot(120), hot(120.1)), (low(12), low(11.9))])
def test_an_issue_is_critical_beyond_half_as_far_again(half_again: Reading, more: Reading) -> None:
    watch = Watch(EXACT)
    watch.judge_machine(half_again)

    severities = [issue.severity for reading in (half_again, more) for issue in watch.judge_machine(reading)]

    assert severities == ["warning", "critical"]


@pytest.mark.parametrize(
    ("bad", "reading", "kind"),
    [
        ({"memory_mb": 60.0}, Reading(), "high_memory"),
        ({"fallbacks": 80}, Reading(), "rising_fallbacks"),
        ({"errors": 15}, Reading(), "high_errors"),
        ({"labelled": 100, "correct": 60}, Reading(), "low_accuracy"),
        ({}, Reading(cpu_percent=95), "high_cpu"),
        ({}, Reading(temperature_c=85), "high_temperature"),
        ({}, Reading(battery_percent=10, on_mains=False), "low_battery"),
        ({"confidence": (50, 50) + (0,) * 8}, Reading(), "confidence_drift"),
    ],
)
def test_every_limit_is_watched(bad: dict[str, object], reading: Reading, kind: str) -> None:
    calibration = Calibration(1.0, (0.0,) * 8 + (0.2, 0.8), 1000)
    watch = Watch(PLAN, calibration)
    normal = window(confidence=(0,) * 8 + (20, 80))

    for _ in range(3):
        assert watch.judge(normal, Reading(cpu_percent=10, temperature_c=40, battery_percent=80)) == []
    change = {"confidence": (0,) * 8 + (20, 80), **bad}
    for _ in range(2):
        issues = watch.judge(window(**change), reading)
    assert kinds(issues) == {kind}


def test_low_battery_on_mains_is_no_issue_and_missing_sensors_are_none() -> None:
    watch = Watch(PLAN)

    for _ in range(3):
        assert watch.judge(window(), Reading(battery_percent=5, on_mains=True)) == []
        assert watch.judge(window(), Reading()) == []


def test_low_battery_ends_when_the_device_is_plugged_in() -> None:
    watch = Watch(PLAN)
    for _ in range(2):
        watch.judge_machine(Reading(battery_percent=5, on_mains=False))
    assert kinds(watch.issues()) == {"low_battery"}

    standing = [kinds(watch.judge_machine(Reading(battery_percent=6, on_mains=True))) for _ in range(3)]

    assert standing == [{"low_battery"}, {"low_battery"}, set()]


def test_plan_switches_off_what_it_does_not_track() -> None:
    watch = Watch(
        replace(PLAN, enable_performance_tracking=False, enable_accuracy_monitoring=False),
        Calibration(1.0, (1.0,) + (0.0,) * 9, 10),
    )

    for _ in range(3):
        assert watch.judge(window(99, memory_mb=99.0), Reading(cpu_percent=99)) == []


def test_steps_go_down_under_strain_and_back_up_after_it() -> None:
    levels = [Level("normal", threads=4), Level("small", max_memory_mb=5), Level("slow", interval_s=10)]
    hot = [Issue("high_temperature", "warning", 85, 80)]
    now, path = 0, []
    for issues in (hot, hot, hot, [Issue("high_latency", "warning", 11, 10)], [], []):
        now = step_for(issues, levels, now)
        path.append(levels[now].name)

    assert path == ["small", "slow", "slow", "small", "normal", "normal"]


def test_few_labels_raise_nothing_and_accuracy_can_recover() -> None:
    watch = Watch(PLAN)

    for _ in range(5):
        assert watch.judge_model(window(labelled=4, correct=2)) == []
    for _ in range(2):
        (issue,) = watch.judge_model(window(labelled=100, correct=60)) or [None]
    assert (issue.kind, issue.severity) == ("low_accuracy", "critical")
    standing = [bool(watch.judge_model(window(labelled=100, correct=90))) for _ in range(3)]
    assert standing == [True, True, False]


def test_chance_is_no_drift_and_a_real_one_is_found() -> None:
    shares = (0.0, 0.0, 0.02, 0.03, 0.05, 0.1, 0.1, 0.15, 0.25, 0.3)
    chance, moved = np.random.default_rng(0), shares[::-1]

    def drifts(of: tuple[float, ...], rows: int) -> int:
        watch = Watch(PLAN, calibration, raise_after=1, clear_after=1, clear_share=1.0)
        counts = [tuple(int(n) for n in chance.multinomial(rows, of)) for _ in range(200)]
        return sum(bool(watch.judge_model(window(confidence=count, predictions=rows))) for count in counts)

    calibration = Calibration(1.0, shares, 400)
    assert drifts(shares, 60) <= 2, "one in a hundred windows may stray"
    assert drifts(shares, 1000) == 0
    assert drifts(moved, 60) == 200


@pytest.mark.parametrize(("predictions", "errors", "raised"), [(10, 10, True), (10, 1, False), (1000, 100, True)])
def test_failures_count_as_far_as_they_are_evidence(predictions: int, errors: int, raised: bool) -> None:
    watch = Watch(PLAN)

    for _ in range(2):
        issues = watch.judge_model(window(predictions=predictions, errors=errors))

    assert kinds(issues) == ({"high_errors"} if raised else set())


def test_heat_stands_while_nothing_is_predicted_and_when_the_model_changes() -> None:
    before, after = Watch(PLAN), Watch(PLAN)
    hot, warm = Reading(temperature_c=90), Reading(temperature_c=75)
    for _ in range(2):
        before.judge(window(99), hot)
    assert kinds(before.issues()) == {"high_temperature", "high_latency"}

    after.take_over(before)

    assert kinds(after.issues()) == {"high_temperature"}, "the latency was the other model's"
    assert kinds(after.judge_machine(warm)) == {"high_temperature"}, "not yet cool enough for it to end"


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_sensors_of_a_board(tmp_path: Path) -> None:
    write(tmp_path, "proc/stat", "cpu 100 0 100 800 0 0 0 0\n")
    sensors = Sensors(tmp_path)
    write(tmp_path, "proc/stat", "cpu 160 0 120 820 0 0 0 0\n")
    write(tmp_path, "proc/meminfo", "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 250 kB\n")
    write(tmp_path, "sys/class/thermal/thermal_zone0/temp", "61500\n")
    write(tmp_path, "sys/class/thermal/thermal_zone1/temp", "-273000\n")
    write(tmp_path, "sys/class/power_supply/BAT0/type", "Battery\n")
    write(tmp_path, "sys/class/power_supply/BAT0/capacity", "42\n")
    write(tmp_path, "sys/class/power_supply/AC/type", "Mains\n")
    write(tmp_path, "sys/class/power_supply/AC/online", "0\n")
    write(tmp_path, "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "600000\n")
    write(tmp_path, "sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq", "1500000\n")

    reading = sensors.read()

    assert reading.cpu_percent == pytest.approx(80)
    assert reading.memory_percent == pytest.approx(75)
    assert (reading.temperature_c, reading.battery_percent, reading.on_mains) == (61.5, 42, False)
    assert (reading.frequency_mhz, reading.throttled) == (600, True)


def test_board_without_sensors_says_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgewright_runtime.health.sensors._psutil", lambda: None)
    reading = Sensors(tmp_path).read()

    assert (reading.cpu_percent, reading.memory_percent, reading.temperature_c) == (None, None, None)
    assert (reading.battery_percent, reading.on_mains, reading.frequency_mhz, reading.throttled) == (None,) * 4


def test_this_machine_can_be_read() -> None:
    reading = Sensors().read()

    assert reading.memory_mb > 1
    assert 0 <= reading.memory_percent <= 100


@pytest.mark.parametrize("rows", [4, 50, 100, 1999])
def test_model_without_a_fault_meets_limits_that_allow_none(rows: int) -> None:
    watch = Watch(Monitoring(min_accuracy=1, max_error_share=0, max_fallback_share=0))
    faultless = window(predictions=rows, labelled=rows, correct=rows)

    assert [watch.judge_model(faultless) for _ in range(3)] == [[], [], []]


FALLEN_BACK, FAILED, WRONG = window(fallbacks=1), window(errors=9), window(labelled=100, correct=50)


@pytest.mark.parametrize(
    ("plan", "bad", "reading", "cleared"),
    [
        (Monitoring(max_fallback_share=0), FALLEN_BACK, Reading(), Reading()),
        (Monitoring(max_error_share=0), FAILED, Reading(), Reading()),
        (Monitoring(min_accuracy=1), WRONG, Reading(), Reading()),
        (Monitoring(min_battery_percent=90), window(), low(50), low(96)),
        (Monitoring(min_battery_percent=95), window(), low(50), Reading(battery_percent=50, on_mains=True)),
        (Monitoring(min_battery_percent=100), window(), low(99), low(100)),
    ],
    ids=["no fallback", "no error", "no wrong answer", "battery 90", "battery 95", "battery 100"],
)
def test_limit_at_the_end_of_its_scale_can_be_met_again(
    plan: Monitoring, bad: TelemetryRecord, reading: Reading, cleared: Reading
) -> None:
    watch, well = Watch(plan), window(labelled=100, correct=100)

    raised = [len(watch.judge(bad, reading)) for _ in range(2)]
    assert raised == [0, 1]
    assert [len(watch.judge(well, cleared)) for _ in range(3)] == [1, 1, 0]


def test_battery_of_a_mouse_is_not_the_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mouse = SimpleNamespace(sensors_battery=lambda: SimpleNamespace(percent=5, power_plugged=False))
    monkeypatch.setattr("edgewright_runtime.health.sensors._psutil", lambda: mouse)
    for name, text in {"type": "Battery\n", "scope": "Device\n", "capacity": "5\n"}.items():
        write(tmp_path, f"sys/class/power_supply/hidpp_battery_0/{name}", text)
    write(tmp_path, "sys/class/power_supply/AC/type", "Mains\n")
    write(tmp_path, "sys/class/power_supply/AC/online", "1\n")
    without = Sensors(tmp_path).read()
    write(tmp_path, "sys/class/power_supply/BAT0/type", "Battery\n")
    write(tmp_path, "sys/class/power_supply/BAT0/scope", "System\n")
    write(tmp_path, "sys/class/power_supply/BAT0/capacity", "80\n")

    assert (without.battery_percent, without.on_mains) == (None, True)
    assert Sensors(tmp_path).read().battery_percent == 80
