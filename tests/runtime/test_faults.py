"""A small budget of ``make faults``: the suite itself must find what it looks for."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.faults import power_cuts

_KILLS = """
import json, random, sys
from dataclasses import asdict
from pathlib import Path
from benchmarks.faults import kills
print(json.dumps(asdict(kills(Path(sys.argv[1]), 18, random.Random(5)))))
"""


def test_kills_lose_nothing(tmp_path: Path) -> None:
    # In a process of its own: it forks, and this one may have the threads of a framework.
    command = [sys.executable, "-c", _KILLS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout)

    assert [figures[name] for name in ("kills", "lost", "half", "survivors")] == [18, 0, 0, 0]
    assert figures["server_count"] == figures["device_count"]
    assert figures["retried"] == 9
    assert figures["by_kind"]["patch"] == 3


def test_power_cuts_lose_nothing_and_a_lying_disk_does(tmp_path: Path) -> None:
    pytest.importorskip("apsw")
    figures = power_cuts(tmp_path / "true", 15, random.Random(5))

    assert figures.acknowledged > 50
    assert (figures.lost, figures.damaged) == (0, 0)
    assert power_cuts(tmp_path / "lying", 5, random.Random(5), ignore_syncs=True).lost > 0
