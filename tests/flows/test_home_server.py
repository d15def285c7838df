"""The home's own Prefect server, where it cannot start."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from edgewright.errors import EdgewrightError
from flows import home_server


def test_a_full_disk_is_one_line_before_anything_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Any) -> Any:
        return shutil._ntuple_diskusage(10**9, 10**9 - 300_000, 300_000)

    monkeypatch.setattr(shutil, "disk_usage", full)
    with pytest.raises(
        EdgewrightError, match=r"is full: 0\.3 MB are free, .* needs 10; free some, or set EDGEWRIGHT_HOME"
    ):
        home_server._start(tmp_path)
    assert not list(tmp_path.iterdir())
