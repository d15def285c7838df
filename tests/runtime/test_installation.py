"""What a device remembers of its releases, and what it mends."""

import shutil
from pathlib import Path

import pytest

from edgewright_runtime.update.installation import Installation
from tests.runtime.small_releases import LINE, keep, release_of


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path / "device")


def test_line_that_was_never_installed_has_had_no_version(installation: Installation) -> None:
    assert installation.highest_version(LINE) == 0


@pytest.mark.parametrize("beside", [False, True])
def test_highest_version_outlives_its_release(installation: Installation, beside: bool) -> None:
    """Or a stale repository could bring back what was replaced."""
    keep(installation, release_of(1))
    newer = keep(installation, release_of(2), beside=beside)
    shutil.rmtree(installation.root / "releases" / newer)

    assert installation.names() == [f"{LINE}.1"]
    assert installation.highest_version(LINE) == 2


def test_current_release_whose_link_is_damaged_gets_its_own_bundle_back(installation: Installation) -> None:
    keep(installation, release_of(1))
    keep(installation, release_of(2))
    link = installation.root / "current" / "bundle"
    link.unlink()
    link.symlink_to(installation.bundle_folder(release_of(1).manifest.sha256))

    keep(installation, release_of(2))

    current = installation.current()
    assert current.bundle == installation.bundle_folder(release_of(2).manifest.sha256)
    assert current.previous == f"{LINE}.1"


def test_release_is_tried_again_at_the_instant_its_wait_ends(installation: Installation) -> None:
    installation.postpone(f"{LINE}.1", "out of memory", 1e9)

    assert installation.postponed(f"{LINE}.1", 1e9 + 59.5) == "out of memory"
    assert installation.postponed(f"{LINE}.1", 1e9 + 60) is None
