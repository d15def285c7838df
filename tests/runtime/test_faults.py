"""A small budget of ``make faults``: the suite itself must find what it looks for."""

import json
import random
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.faults import kills, power_cuts


def test_kills_lose_nothing(tmp_path: Path) -> None:
    figures = kills(tmp_path, 18, random.Random(5))

    assert (figures.kills, figures.lost, figures.half, figures.survivors) == (18, 0, 0, 0)
    assert figures.server_count == figures.device_count
    assert figures.retried == 9
    assert json.loads(json.dumps(asdict(figures)))["by_kind"]["patch"] == 3


def test_power_cuts_lose_nothing_and_a_lying_disk_does(tmp_path: Path) -> None:
    pytest.importorskip("apsw")
    figures = power_cuts(tmp_path / "true", 15, random.Random(5))

    assert figures.acknowledged > 50
    assert (figures.lost, figures.damaged) == (0, 0)
    assert power_cuts(tmp_path / "lying", 5, random.Random(5), ignore_syncs=True).lost > 0
