"""What the machine's own meters say it used; nothing where it has none that may be read.

Counters (Intel and AMD RAPL: Linux, Documentation/power/powercap/powercap.rst) are exact over any span; power sensors
(INA and other hwmon chips: Documentation/hwmon/sysfs-interface.rst; a battery: Documentation/ABI/testing/
sysfs-class-power) show one moment and are averaged over many. Both are of the whole board, idle share included.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["EnergyMeter"]

_MICRO = 1e-6


class EnergyMeter:
    """Joules since it was made. ``sample`` keeps a look at power sensors, several times a second or so."""

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # Only whole packages ("intel-rapl:0"): their parts ("intel-rapl:0:1") are in them already.
        self._counters = [
            folder
            for folder in sorted((root / "sys/class/powercap").glob("intel-rapl:*"))
            if folder.name.count(":") == 1 and _number(folder / "energy_uj") is not None
        ]
        self._began_uj = [_number(folder / "energy_uj") or 0.0 for folder in self._counters]
        self._began_s = clock()
        hwmon = sorted((root / "sys/class/hwmon").glob("hwmon*/power1_input"))
        self._sensors = [path for path in hwmon if _number(path) is not None]
        self._batteries = [
            folder
            for folder in sorted((root / "sys/class/power_supply").glob("*"))
            if _text(folder / "type") == "Battery" and _text(folder / "status") == "Discharging"
        ]
        self._watts: list[float] = []
        self.sample()

    @property
    def source(self) -> str:
        """Which meter is read; empty where there is none."""
        if self._counters:
            return "RAPL"
        if self._sensors:
            return "power sensors (hwmon)"
        return "battery" if self._watts else ""

    def sample(self) -> None:
        """Look at what shows only the moment."""
        if self._counters:
            return
        # A battery only where no sensor is read: added up, the same current would count twice.
        watts = [_number(path) for path in self._sensors] or [_battery_uw(folder) for folder in self._batteries]
        known = [value for value in watts if value is not None]
        if known:
            self._watts.append(sum(known) * _MICRO)

    def joules(self) -> float | None:
        """Used since the start; None without a meter."""
        if self._counters:
            return sum(self._spent_uj(f, began) for f, began in zip(self._counters, self._began_uj)) * _MICRO
        if not self._watts:
            return None
        return sum(self._watts) / len(self._watts) * (self._clock() - self._began_s)

    @staticmethod
    def _spent_uj(folder: Path, began: float) -> float:
        """The counter begins anew at ``max_energy_range_uj``; more than one turn takes minutes at least."""
        now = _number(folder / "energy_uj")
        if now is None:
            return 0.0
        return now - began if now >= began else now + (_number(folder / "max_energy_range_uj") or 0.0) - began


def _battery_uw(folder: Path) -> float | None:
    power = _number(folder / "power_now")
    if power is not None:
        return abs(power)
    current, voltage = _number(folder / "current_now"), _number(folder / "voltage_now")
    return None if current is None or voltage is None else abs(current) * voltage * _MICRO


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # not there, or only root may read it, as with RAPL since 2020
        return ""
