"""What the device's own sensors say; None where it has no such sensor.

Everything is read from Linux's ``/proc`` and ``/sys``; psutil, where it is installed, fills what those lack.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Reading", "Sensors"]


@dataclass(frozen=True)
class Reading:
    """One look at the machine. ``cpu_percent`` is of all cores since the look before; ``throttled`` is a clock that
    is held well below its maximum while the processor is busy.
    """

    cpu_percent: float | None = None
    process_cpu_percent: float | None = None
    frequency_mhz: float | None = None
    memory_percent: float | None = None
    memory_mb: float | None = None
    battery_percent: float | None = None
    on_mains: bool | None = None
    temperature_c: float | None = None
    throttled: bool | None = None


# A busy core below two thirds of its maximum clock is being held back.
_THROTTLED_SHARE = 0.66
_BUSY_PERCENT = 50.0


class Sensors:
    """The machine below ``root`` (``/``), read; it keeps the counters that percentages are differences of."""

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._clock = clock
        self._cpu: tuple[float, float] | None = self._cpu_times()
        self._own = (self._clock(), _own_cpu_s())
        self._psutil = _psutil()

    def read(self) -> Reading:
        """The state now."""
        cpu = self._cpu_percent()
        now, top = self._frequencies_mhz()
        throttled = None
        if now is not None and top and cpu is not None:
            throttled = cpu > _BUSY_PERCENT and now < top * _THROTTLED_SHARE
        battery, mains = self._battery()
        return Reading(
            cpu_percent=cpu,
            process_cpu_percent=self._own_percent(),
            frequency_mhz=now,
            memory_percent=self._memory_percent(),
            memory_mb=self._own_memory_mb(),
            battery_percent=battery,
            on_mains=mains,
            temperature_c=self._temperature_c(),
            throttled=throttled,
        )

    def _cpu_percent(self) -> float | None:
        before, self._cpu = self._cpu, self._cpu_times()
        if before is None or self._cpu is None:
            return None
        busy, total = self._cpu[0] - before[0], self._cpu[1] - before[1]
        return 100 * busy / total if total > 0 else None

    def _cpu_times(self) -> tuple[float, float] | None:
        """Busy and total ticks of all cores since boot (proc(5), /proc/stat)."""
        line = self._text("proc/stat").partition("\n")[0].split()
        if len(line) < 6 or line[0] != "cpu":
            return None
        # User to steal; the two after them, of guests, are in user already.
        ticks = [float(t) for t in line[1:9]]
        # Idle and waiting for the disk: the processor does nothing in either.
        idle = ticks[3] + ticks[4]
        return sum(ticks) - idle, sum(ticks)

    def _own_percent(self) -> float | None:
        (then, spent), now, total = self._own, self._clock(), _own_cpu_s()
        self._own = (now, total)
        return 100 * (total - spent) / (now - then) if now > then else None

    def _frequencies_mhz(self) -> tuple[float | None, float | None]:
        """The fastest core's present and largest clock."""
        # Cores of one policy share a clock; big and little cores have one each.
        policies = self._matching("sys/devices/system/cpu/cpufreq", "policy*")
        now = [self._number(p.relative_to(self._root) / "scaling_cur_freq") for p in policies]
        top = [self._number(p.relative_to(self._root) / "cpuinfo_max_freq") for p in policies]
        known = [(n / 1000, t / 1000) for n, t in zip(now, top) if n is not None and t is not None]
        return max(known) if known else (None, None)

    def _memory_percent(self) -> float | None:
        rows = [row.split() for row in self._text("proc/meminfo").splitlines()]
        values = {row[0].rstrip(":"): float(row[1]) for row in rows if len(row) > 1}
        total, free = values.get("MemTotal"), values.get("MemAvailable")
        return 100 * (total - free) / total if total and free is not None else None

    def _own_memory_mb(self) -> float | None:
        fields = self._text("proc/self/statm").split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20 if len(fields) > 1 else None

    def _battery(self) -> tuple[float | None, bool | None]:
        charge, mains, peripherals = None, None, False
        for supply in self._matching("sys/class/power_supply", "*"):
            name = supply.relative_to(self._root)
            # A mouse or a headset tells of its own battery: scope Device (kernel: power_supply.h), else System or none.
            if self._text(name / "scope").strip() == "Device":
                peripherals = True
                continue
            kind = self._text(name / "type").strip()
            if kind == "Battery":
                charge = self._number(name / "capacity")
            elif kind in {"Mains", "USB"} and (online := self._number(name / "online")) is not None:
                mains = bool(online) or bool(mains)
        # The power_supply class is Linux's; psutil knows the batteries of other systems, and of Linux the mouse's too.
        if charge is None and not peripherals and (battery := self._battery_by_psutil()) is not None:
            return float(battery.percent), bool(battery.power_plugged)
        return charge, mains

    def _battery_by_psutil(self) -> Any:
        try:
            return None if self._psutil is None else self._psutil.sensors_battery()
        except OSError:
            return None

    def _temperature_c(self) -> float | None:
        """The hottest thermal zone (kernel: millidegrees)."""
        zones = self._matching("sys/class/thermal", "thermal_zone*")
        readings = [self._number(zone.relative_to(self._root) / "temp") for zone in zones]
        # Zones without a sensor report 0 or below -40.
        plausible = [value / 1000 for value in readings if value is not None and value / 1000 > 0]
        return max(plausible, default=None)

    def _matching(self, folder: str, pattern: str) -> list[Path]:
        try:
            return sorted((self._root / folder).glob(pattern))
        except OSError:  # the kernel lists nothing now, as where no file can be opened
            return []

    def _number(self, name: Path) -> float | None:
        try:
            return float(self._text(name))
        except ValueError:
            return None

    def _text(self, name: str | Path) -> str:
        try:
            return (self._root / name).read_text()
        except OSError:  # a sensor that is not there, or that the kernel cannot read now
            return ""


def _own_cpu_s() -> float:
    times = os.times()
    return times.user + times.system


def _psutil() -> Any:
    try:
        module: Any = importlib.import_module("psutil")
    except ImportError:
        return None
    return module if hasattr(module, "sensors_battery") else None
