"""Publishing, and keeping an artifact, on a disk that has room for a part of it only; for every such part."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewright.artifact import Format
from edgewright.errors import InputError
from edgewright.package import Bundle
from edgewright.release import publish
from edgewright.store import Store
from edgewright.upkeep import check_home
from edgewright_runtime.update.updater import Updater
from tests.small_disk import fill, mounted

PAGE = 4096


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", megabytes=2) as mount:
        yield mount


def leave_pages(ballast: Path, pages: int) -> None:
    os.truncate(ballast, ballast.stat().st_size - PAGE * pages)


def installed(repository: str, device: Path) -> str:
    found = Updater(repository, "stable", device).update().installed
    assert found is not None
    return found.name


def test_release_is_published_wholly_or_not_at_all(
    disk: Path, tmp_path: Path, table_bundle: Bundle, newer_bundle: Bundle
) -> None:
    repository = str(disk / "repository")
    publish(table_bundle, repository, "stable")
    said: list[str] = []

    for pages in range(200):
        leave_pages(fill(disk), pages)
        try:
            release = publish(newer_bundle, repository, "stable")
        except InputError as e:
            said.append(str(e))
            assert installed(repository, tmp_path / f"device-{pages}") == "churn.edge_device.stable.1"
            assert list(Path(repository).rglob(".*.????????")) == []
        else:
            break

    assert len(said) > 3
    assert all("cannot be written: [Errno 28] No space left on device" in line for line in said)
    assert release.version == 2
    assert installed(repository, tmp_path / "last") == "churn.edge_device.stable.2"


def test_object_is_kept_wholly_or_not_at_all(disk: Path, tmp_path: Path) -> None:
    content = tmp_path / "model"
    content.mkdir()
    for n in range(3):
        (content / f"{n}.bin").write_bytes(bytes([n]) * 3 * PAGE)
    store = Store(disk / "home")
    said: list[str] = []

    for pages in range(100):
        leave_pages(fill(disk), pages)
        try:
            kept = store.put(content, Format.BUNDLE, parent="ab" * 32)
        except OSError as e:
            said.append(str(e))
            assert check_home(store).damaged == ()
            assert list((disk / "home" / "scratch").glob("*/")) == []
        else:
            break

    assert len(said) > 3
    assert all("No space left on device" in line for line in said)
    assert store.holds(kept)
    assert store.ancestors(kept.digest) == ["ab" * 32]
    assert check_home(store).damaged == ()
