"""`edgewright store --repository`: what is damaged is found and made again; old releases go, devices go on."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgewright.errors import InputError
from edgewright.package import Bundle
from edgewright.release import current_release, publish, rollback
from edgewright.release.upkeep import check_repository, collect_repository, repair_repository
from edgewright.store import Store
from edgewright_runtime.bundle.release import LINES_PATH, parse_release
from edgewright_runtime.errors import EdgeRuntimeError
from edgewright_runtime.update.updater import Updater
from tests.runtime.patchable import bundle


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    """Three versions of one model, a patch from each to the next."""
    return [bundle(tmp_path_factory.mktemp("bundle"), tuned=n * 1e-4) for n in range(3)]


@pytest.fixture
def repository(tmp_path: Path, bundles: list[Bundle]) -> Path:
    for made in bundles:
        publish(made, str(tmp_path / "r"), "stable")
    return tmp_path / "r"


def store_of(made: Bundle) -> Store:
    """The home that a bundle lies in."""
    return Store(made.artifact.path.parents[3])


def release(repository: Path, version: int):
    return parse_release((repository / f"releases/churn.edge_device.stable/{version}.json").read_bytes())


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def model_blob(repository: Path, version: int) -> Path:
    return repository / next(b.name for b in release(repository, version).files if b.path == "churn.onnx")


def patch_blob(repository: Path) -> Path:
    return repository / release(repository, 3).patches[0].files[0].name


def test_whole_repository_is_said_to_be_whole(repository: Path, bundles: list[Bundle]) -> None:
    found = check_repository(str(repository))
    assert found.damaged == ()
    assert "3 releases" in found.summary
    assert "0 of them of no release, 0 damaged" in found.summary
    assert repair_repository(str(repository), store_of(bundles[0])) == ([], [])


@pytest.mark.parametrize("harm", [spoil, Path.unlink], ids=["rotten", "gone"])
def test_damaged_file_is_made_again_from_a_bundle_of_the_home(
    repository: Path, bundles: list[Bundle], harm: Callable[[Path], None]
) -> None:
    blob = model_blob(repository, 3)
    before = blob.read_bytes()
    harm(blob)

    (line,) = check_repository(str(repository)).damaged
    done, left = repair_repository(str(repository), store_of(bundles[2]))

    assert line.startswith(f"blobs/sha256/{blob.parent.name}/{blob.name}: is ")
    assert (len(done), left) == (1, [])
    assert "made again" in done[0]
    assert blob.read_bytes() == before
    assert check_repository(str(repository)).damaged == ()


def test_file_that_nobody_can_make_again_is_named_and_left(repository: Path, bundles: list[Bundle]) -> None:
    blob = model_blob(repository, 3)
    spoil(blob)

    done, left = repair_repository(str(repository), store_of(bundles[0]))

    assert done == []
    assert "publish that model again" in left[0]
    assert len(check_repository(str(repository)).damaged) == 1


def test_damaged_patch_is_removed_and_its_devices_download(
    repository: Path, bundles: list[Bundle], tmp_path: Path
) -> None:
    updater = Updater(str(repository), "stable", tmp_path / "d")
    index = (repository / "channels/churn.edge_device.stable.json").read_bytes()
    document = (repository / "releases/churn.edge_device.stable/2.json").read_bytes()
    older = json.loads(index)
    digest = hashlib.sha256(document).hexdigest()
    older["signed"].update(version=2, release_bytes=len(document), release_sha256=digest)
    (repository / "channels/churn.edge_device.stable.json").write_text(json.dumps(older))
    updater.update()
    (repository / "channels/churn.edge_device.stable.json").write_bytes(index)
    for delta in release(repository, 3).patches[0].files:
        spoil(repository / delta.name)

    assert check_repository(str(repository)).damaged
    done, left = repair_repository(str(repository), store_of(bundles[0]))

    assert {line.rpartition(": ")[2] for line in done} == {"removed"}
    assert left == []
    assert check_repository(str(repository)).damaged == ()
    assert updater.update().installed.name == "churn.edge_device.stable.3"


def test_damaged_index_points_to_the_newest_release_again(
    repository: Path, bundles: list[Bundle], tmp_path: Path
) -> None:
    before = current_release(str(repository), "stable")
    (repository / "channels/churn.edge_device.stable.json").write_bytes(b"{")

    with pytest.raises(InputError, match="store repair"):
        publish(bundles[0], str(repository), "stable")
    assert "channels/churn.edge_device.stable.json: cannot be used" in check_repository(str(repository)).damaged[0]
    done, left = repair_repository(str(repository), store_of(bundles[0]))

    assert (done, left) == (["channels/churn.edge_device.stable.json: points to version 3 now"], [])
    assert current_release(str(repository), "stable") == before


def test_damaged_newest_release_is_followed_by_the_one_before_under_a_new_number(
    repository: Path, bundles: list[Bundle], tmp_path: Path
) -> None:
    updater = Updater(str(repository), "stable", tmp_path / "d")
    updater.update()
    spoil(repository / "releases/churn.edge_device.stable/3.json")
    (repository / "releases/churn.edge_device.stable/3.json").write_bytes(b"{")

    done, left = repair_repository(str(repository), store_of(bundles[0]))

    assert done[0] == "channels/churn.edge_device.stable.json: points to version 4 now"
    assert done[1].startswith("releases/churn.edge_device.stable/3.json: removed")
    assert left == []
    found = current_release(str(repository), "stable")[0]
    assert (found.version, found.content_of, found.bundle_digest) == (4, 2, bundles[1].artifact.digest)
    assert check_repository(str(repository)).damaged == ()
    assert updater.update().installed.name == "churn.edge_device.stable.4"


def test_oldest_releases_go_and_everybody_goes_on(repository: Path, bundles: list[Bundle], tmp_path: Path) -> None:
    updater = Updater(str(repository), "stable", tmp_path / "d")
    publish(bundles[0], str(repository), "beta")
    stray = repository / "blobs" / "sha256" / "ab" / ("ab" + "0" * 62)
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(b"of an attempt that was cut off")

    collect_repository(str(repository), None)
    assert not stray.exists()
    assert len(list(repository.glob("releases/churn.edge_device.stable/*"))) == 3
    said = collect_repository(str(repository), 0)

    assert said[0].startswith("removed 1 releases and ")
    assert said[1].endswith("the newest of each line, which stay")
    assert sorted(p.name for p in repository.glob("releases/churn.edge_device.stable/*")) == ["2.json", "3.json"]
    assert check_repository(str(repository)).damaged == ()
    assert "0 of them of no release" in check_repository(str(repository)).summary
    assert updater.update().installed.name == "churn.edge_device.stable.3"
    assert rollback(str(repository), "stable").content_of == 2
    assert publish(bundles[0], str(repository), "stable").version == 5


def test_version_whose_content_is_current_stays(repository: Path, bundles: list[Bundle]) -> None:
    rollback(str(repository), "stable", 1)
    publish(bundles[2], str(repository), "stable")
    rollback(str(repository), "stable", 1)

    collect_repository(str(repository), 0)

    assert sorted(int(p.stem) for p in repository.glob("releases/churn.edge_device.stable/*")) == [1, 5, 6]


def test_nothing_is_removed_from_a_repository_that_is_damaged(repository: Path, bundles: list[Bundle]) -> None:
    (repository / "releases/churn.edge_device.stable/1.json").write_bytes(b"{")
    before = sorted(repository.rglob("*"))

    with pytest.raises(InputError, match="store repair"):
        collect_repository(str(repository), 0)
    assert sorted(repository.rglob("*")) == before


def test_remote_repository_is_checked_repaired_and_collected(bundles: list[Bundle]) -> None:
    import fsspec

    url, memory = "memory://edgewright-test-upkeep", fsspec.filesystem("memory")
    try:
        for made in bundles:
            publish(made, url, "stable")
        assert check_repository(url).damaged == ()
        (name,) = [p for p in memory.find("/edgewright-test-upkeep/releases") if p.endswith("3.json")]
        blob = next(b for b in parse_release(memory.cat_file(name)).files if b.path == "churn.onnx")
        memory.pipe_file(f"/edgewright-test-upkeep/{blob.name}", b"rotten")
        assert len(check_repository(url).damaged) == 1
        assert len(repair_repository(url, store_of(bundles[2]))[0]) == 1
        assert collect_repository(url, 0)[0].startswith("removed 1 releases")
        assert check_repository(url).damaged == ()
    finally:
        memory.rm("/edgewright-test-upkeep", recursive=True)


def test_command_takes_a_repository(repository: Path) -> None:
    line = [sys.executable, "-m", "edgewright", "store"]
    environment = {**os.environ, "NO_COLOR": "1"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*line, *words], capture_output=True, text=True, check=False, env=environment)

    assert run("check", "--repository", str(repository)).returncode == 0
    spoil(model_blob(repository, 3))
    assert run("check", "--repository", str(repository)).returncode == 1
    done = run("repair", "--repository", str(repository))
    assert (done.returncode, "publish that model again" in done.stdout) == (1, True)


@pytest.mark.parametrize("name", ["channels/churn.edge_device.stable.json", LINES_PATH, "blob"])
@pytest.mark.parametrize(
    "put", [os.mkfifo, lambda path: path.symlink_to(path.name), lambda path: path.symlink_to("no")]
)
def test_what_is_no_file_is_damage_and_is_replaced(
    repository: Path, bundles: list[Bundle], tmp_path: Path, name: str, put: Callable[[Path], object]
) -> None:
    spot = model_blob(repository, 3) if name == "blob" else repository / name
    spot.unlink()
    put(spot)
    with pytest.raises(EdgeRuntimeError):
        Updater(str(repository), "stable", tmp_path / "device").update()
    assert [line.partition(":")[0] for line in check_repository(str(repository)).damaged] == [
        str(spot.relative_to(repository))
    ]

    done, left = repair_repository(str(repository), store_of(bundles[2]))

    assert (len(done), left) == (1, [])
    assert check_repository(str(repository)).damaged == ()
    assert spot.is_file()


def test_publishing_replaces_a_blob_that_is_no_file(repository: Path, bundles: list[Bundle]) -> None:
    spot = model_blob(repository, 3)
    spot.unlink()
    os.mkfifo(spot)
    assert publish(bundles[2], str(repository), "stable").version == 3
    assert check_repository(str(repository)).damaged == ()


def test_version_that_a_rollback_goes_to_stays(repository: Path, bundles: list[Bundle]) -> None:
    publish(bundles[0], str(repository), "stable", cohort_percent=5)
    for percent in (50, 100):
        publish(bundles[0], str(repository), "stable", cohort_percent=percent)

    collect_repository(str(repository), 0)

    assert rollback(str(repository), "stable").content_of == 3


def test_next_step_of_a_rollout_keeps_the_patch_from_what_was_before(
    repository: Path, bundles: list[Bundle], tmp_path: Path
) -> None:
    updater = Updater(str(repository), "stable", tmp_path / "d")
    updater.update()
    publish(bundles[1], str(repository), "stable", cohort_percent=0)
    publish(bundles[1], str(repository), "stable", cohort_percent=100)

    outcome = updater.update()

    assert outcome.installed.name == "churn.edge_device.stable.5"
    assert "churn.onnx" in outcome.patched
