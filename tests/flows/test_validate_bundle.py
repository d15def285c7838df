"""One bundle on several devices at once, as Prefect runs it."""

from pathlib import Path

import pytest

from edgewright.package import Bundle
from edgewright.pipeline import bundle_check
from flows.validate import validate_bundle
from tests.bundles import table_bundle

__all__ = ["table_bundle"]


@pytest.mark.slow
def test_device_that_is_away_does_not_stop_the_others(
    table_bundle: Bundle, tmp_path: Path, edgewright_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_check, "QUICK_SUSTAINED_S", 0.3)
    away = tmp_path / "away.yaml"
    away.write_text(
        "title: a board that is not there\nplatform: edge_device\ninstruction_set: arm64\ncores: 1\nmemory_mb: 512\n"
        'os_floor: "6.1"\nruntime_floor: "1.18.0"\nssh: {host: 127.0.0.1, port: 1, user: nobody}\n'
    )
    here, there = validate_bundle(table_bundle.artifact.path, ["generic_edge_device", str(away)], quick=True)
    assert here.passed
    assert not there.passed
    assert "127.0.0.1 over SSH" in there.failure
