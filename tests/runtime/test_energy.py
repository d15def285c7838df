"""Meters as Linux shows them, in a tree of its own."""

from pathlib import Path

import pytest

from edgewright_runtime.health.energy import EnergyMeter


def write(root: Path, **files: str) -> None:
    for name, content in files.items():
        path = root / "sys/class" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_counter_is_read_as_a_difference_and_over_its_turn(tmp_path: Path) -> None:
    package = "powercap/intel-rapl:0"
    parts = {f"{package}/energy_uj": "9000000", f"{package}/max_energy_range_uj": "10000000"}
    write(tmp_path, **parts, **{"powercap/intel-rapl:0:0/energy_uj": "5"})
    meter = EnergyMeter(tmp_path)
    write(tmp_path, **{f"{package}/energy_uj": "9500000"})
    assert meter.joules() == pytest.approx(0.5)
    write(tmp_path, **{f"{package}/energy_uj": "500000"})
    assert meter.joules() == pytest.approx(1.5)
    assert meter.source == "RAPL"


def test_power_sensor_is_averaged_over_the_looks(tmp_path: Path) -> None:
    clock = Clock()
    write(tmp_path, **{"hwmon/hwmon0/power1_input": "2000000"})
    meter = EnergyMeter(tmp_path, clock)
    write(tmp_path, **{"hwmon/hwmon0/power1_input": "4000000"})
    clock.now = 10.0
    meter.sample()
    assert meter.joules() == pytest.approx(30)
    assert meter.source == "power sensors (hwmon)"


def test_battery_counts_while_it_discharges(tmp_path: Path) -> None:
    clock, battery = Clock(), "power_supply/BAT0"
    figures = {f"{battery}/current_now": "500000", f"{battery}/voltage_now": "4000000", f"{battery}/type": "Battery"}
    write(tmp_path, **figures, **{f"{battery}/status": "Discharging"})
    meter = EnergyMeter(tmp_path, clock)
    clock.now = 3.0
    assert meter.joules() == pytest.approx(6)
    assert meter.source == "battery"
    write(tmp_path, **{f"{battery}/status": "Charging"})
    assert EnergyMeter(tmp_path).joules() is None


def test_machine_without_a_meter_says_nothing(tmp_path: Path) -> None:
    meter = EnergyMeter(tmp_path)
    meter.sample()
    assert meter.joules() is None
    assert meter.source == ""
