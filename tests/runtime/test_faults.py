"""A small budget of ``make faults``: the suite itself must find what it looks for."""

import random
from pathlib import Path

import pytest

from benchmarks.faults import Figures, kills, power_cuts


@pytest.fixture
def figures() -> Figures:
    return Figures()


def test_kills_lose_nothing(tmp_path: Path, figures: Figures, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgewright_runtime import updater

    # The suite leaves the golden child out; the other tests want it back.
    monkeypatch.setattr(updater, "check_bundle_in_child", updater.check_bundle_in_child)

    kills(tmp_path, 16, random.Random(5), figures)

    assert (figures.kills, figures.lost, figures.half) == (16, 0, 0)
    assert figures.server_count == figures.device_count


def test_power_cuts_lose_nothing_and_a_lying_disk_does(tmp_path: Path, figures: Figures) -> None:
    pytest.importorskip("apsw")
    power_cuts(tmp_path, 15, random.Random(5), figures)

    assert figures.acknowledged > 50
    assert (figures.lost, figures.half) == (0, 0)
    control = Figures()
    power_cuts(tmp_path, 5, random.Random(5), control, ignore_syncs=True)
    assert control.lost > 0
