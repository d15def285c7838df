import hashlib
import json
import lzma
import multiprocessing
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from edgewright.errors import InputError, TransientError
from edgewright.monitor import MonitoringPlan
from edgewright.package import Bundle
from edgewright.progress import Announcement, progress
from edgewright.release import Release, current_release, publish, rollback
from edgewright.release.repository import ReleaseRepository
from edgewright_runtime.update.updater import Updater


def test_versions_grow_and_know_the_one_before(tmp_path: Path, table_bundle: Bundle, newer_bundle: Bundle) -> None:
    first = publish(table_bundle, str(tmp_path), "stable")
    second = publish(newer_bundle, str(tmp_path), "stable")

    assert (first.version, first.previous_version) == (1, None)
    assert (second.version, second.previous_version) == (2, 1)
    assert second.bundle_digest == newer_bundle.artifact.digest
    assert second.download_bytes == newer_bundle.download_bytes


def test_same_bundle_again_is_the_same_release(tmp_path: Path, table_bundle: Bundle) -> None:
    first = publish(table_bundle, str(tmp_path), "stable")
    before = _files(tmp_path)

    assert publish(table_bundle, str(tmp_path), "stable") == first
    assert _files(tmp_path) == before


def test_wider_cohort_is_a_new_version_without_new_blobs(tmp_path: Path, table_bundle: Bundle) -> None:
    publish(table_bundle, str(tmp_path), "stable", cohort_percent=10)
    blobs = _files(tmp_path / "blobs")

    wider = publish(table_bundle, str(tmp_path), "stable", cohort_percent=50)

    assert (wider.version, wider.cohort_percent) == (2, 50)
    assert _files(tmp_path / "blobs") == blobs


def test_channels_are_apart_and_share_blobs(tmp_path: Path, table_bundle: Bundle) -> None:
    publish(table_bundle, str(tmp_path), "beta")
    blobs = _files(tmp_path / "blobs")
    release = publish(table_bundle, str(tmp_path), "stable")

    assert release.version == 1
    assert _files(tmp_path / "blobs") == blobs


def test_blobs_are_named_by_their_content_and_documents_have_room_for_signatures(
    tmp_path: Path, table_bundle: Bundle
) -> None:
    publish(table_bundle, str(tmp_path), "stable")

    for blob in (tmp_path / "blobs").rglob("*"):
        if blob.is_file():
            assert blob.name == hashlib.sha256(blob.read_bytes()).hexdigest()
    for document in [*tmp_path.glob("channels/*.json"), *tmp_path.glob("releases/*/*.json")]:
        assert json.loads(document.read_bytes())["signatures"] == []


def test_rollback_is_a_new_version_with_old_content(tmp_path: Path, table_bundle: Bundle, newer_bundle: Bundle) -> None:
    first = publish(table_bundle, str(tmp_path), "stable")
    publish(newer_bundle, str(tmp_path), "stable", cohort_percent=5)

    back = rollback(str(tmp_path), "stable")

    assert (back.version, back.previous_version, back.content_of) == (3, 2, 1)
    assert back.manifest_digest == first.manifest_digest
    assert back.cohort_percent == 100
    assert current_release(str(tmp_path), "stable")[0] == back
    with pytest.raises(InputError, match="no content is older"):
        rollback(str(tmp_path), "stable")


def test_rollback_after_a_rollout_in_steps_goes_to_the_bundle_before(
    tmp_path: Path, table_bundle: Bundle, newer_bundle: Bundle
) -> None:
    first = publish(table_bundle, str(tmp_path), "stable")
    for percent in (10, 50, 100):
        publish(newer_bundle, str(tmp_path), "stable", cohort_percent=percent)

    back = rollback(str(tmp_path), "stable")
    assert (back.content_of, back.bundle_digest, back.cohort_percent) == (1, first.bundle_digest, 100)

    # Widened again after the rollback: what that skipped stays skipped.
    publish(table_bundle, str(tmp_path), "stable", cohort_percent=50)
    with pytest.raises(InputError, match="no content is older than that of version 1"):
        rollback(str(tmp_path), "stable")


def test_rollback_over_versions_that_lead_in_a_circle_ends(tmp_path: Path, table_bundle: Bundle) -> None:
    publish(table_bundle, str(tmp_path), "stable", cohort_percent=10)
    publish(table_bundle, str(tmp_path), "stable", cohort_percent=50)
    first = tmp_path / "releases" / "churn.edge_device.stable" / "1.json"
    document = json.loads(first.read_bytes())
    document["signed"]["previous_version"] = 2
    first.write_text(json.dumps(document))

    with pytest.raises(InputError, match="no content is older"):
        rollback(str(tmp_path), "stable")


def test_rollback_needs_a_version_that_is_there_and_older(tmp_path: Path, table_bundle: Bundle) -> None:
    with pytest.raises(InputError, match="no release"):
        rollback(str(tmp_path), "stable")
    publish(table_bundle, str(tmp_path), "stable")
    with pytest.raises(InputError, match="not older"):
        rollback(str(tmp_path), "stable", 1)


def test_plan_travels_in_the_release(tmp_path: Path, table_bundle: Bundle) -> None:
    plan = MonitoringPlan(
        window_s=60, enable_accuracy_monitoring=False, max_latency_p95_ms=7, steps=("longer_interval",)
    )

    publish(table_bundle, str(tmp_path), "stable", monitoring=plan)

    assert current_release(str(tmp_path), "stable")[1] == plan


@pytest.mark.parametrize("step", ["blobs/", "releases/", "channels/"])
def test_end_before_any_step_leaves_the_old_version_current(
    tmp_path: Path, table_bundle: Bundle, newer_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    first = publish(table_bundle, str(tmp_path), "stable")
    write = ReleaseRepository.write

    def cut_off(self: ReleaseRepository, name: str, content: bytes) -> None:
        if name.startswith(step):
            raise KeyboardInterrupt
        write(self, name, content)

    monkeypatch.setattr(ReleaseRepository, "write", cut_off)
    with pytest.raises(KeyboardInterrupt):
        publish(newer_bundle, str(tmp_path), "stable")
    monkeypatch.undo()

    assert current_release(str(tmp_path), "stable")[0] == first
    second = publish(newer_bundle, str(tmp_path), "stable")
    assert second.version == 2
    assert current_release(str(tmp_path), "stable")[0] == second


def test_number_of_an_abandoned_release_is_never_used_for_other_content(
    tmp_path: Path, table_bundle: Bundle, newer_bundle: Bundle
) -> None:
    publish(table_bundle, str(tmp_path), "stable")
    abandoned = tmp_path / "releases" / "churn.edge_device.stable" / "2.json"
    abandoned.write_bytes(b"an attempt with other content")

    assert publish(newer_bundle, str(tmp_path), "stable").version == 3
    assert abandoned.read_bytes() == b"an attempt with other content"


def test_half_written_blob_is_written_again(tmp_path: Path, table_bundle: Bundle) -> None:
    publish(table_bundle, str(tmp_path / "whole"), "stable")
    blobs = [p for p in (tmp_path / "whole" / "blobs").rglob("*") if p.is_file()]
    half = tmp_path / "cut" / blobs[0].relative_to(tmp_path / "whole")
    half.parent.mkdir(parents=True)
    half.write_bytes(blobs[0].read_bytes()[:10])

    publish(table_bundle, str(tmp_path / "cut"), "stable")

    assert half.read_bytes() == blobs[0].read_bytes()


def test_blob_that_is_whole_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, digest = ReleaseRepository(str(tmp_path)), hashlib.sha256(b"content").hexdigest()
    files.keep("blobs/one", b"content", digest)
    said: list[Announcement] = []

    monkeypatch.setattr(ReleaseRepository, "write", lambda *_: pytest.fail("written again"))
    with progress.listening(said.append):
        files.keep("blobs/one", b"content", digest)

    assert said == []


def _blobs(repository: Path) -> list[Path]:
    return sorted(p for p in (repository / "blobs").rglob("*") if p.is_file())


def _spoil(blob: Path) -> None:
    """As long as before, and one bit of it is another."""
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)


@pytest.mark.parametrize("again", ["the same", "another cohort", "another channel"])
@pytest.mark.parametrize("harm", [_spoil, Path.unlink], ids=["rotten", "gone"])
def test_damaged_blob_is_replaced_by_the_next_publisher_and_said(
    tmp_path: Path, table_bundle: Bundle, harm: Callable[[Path], None], again: str
) -> None:
    publish(table_bundle, str(tmp_path), "stable")
    whole = _files(tmp_path / "blobs")
    for blob in _blobs(tmp_path):
        harm(blob)
    said: list[Announcement] = []

    with progress.listening(said.append):
        channel, percent = {"the same": ("stable", 100), "another cohort": ("stable", 50)}.get(again, ("beta", 100))
        release = publish(table_bundle, str(tmp_path), channel, cohort_percent=percent)

    assert release.version == (2 if again == "another cohort" else 1)
    assert _files(tmp_path / "blobs") == whole
    assert len([e for e in said if "was damaged or cut off; replaced" in e.title]) == (
        len(whole) if harm is _spoil else 0
    )
    assert Updater(str(tmp_path), channel, tmp_path / "device").update(ignore_cohort=True).status == "installed"


def test_damaged_release_that_cannot_be_made_again_byte_for_byte_is_followed_by_a_new_one(
    tmp_path: Path, table_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(table_bundle, str(tmp_path), "stable")
    for blob in _blobs(tmp_path):
        _spoil(blob)
    monkeypatch.setattr(
        "edgewright.release.release.transfer_form", lambda file: lzma.compress(file.read_bytes(), preset=0)
    )

    assert publish(table_bundle, str(tmp_path), "stable").version == 2
    assert Updater(str(tmp_path), "stable", tmp_path / "device").update().installed.name == "churn.edge_device.stable.2"


@pytest.mark.parametrize("harm", [_spoil, Path.unlink], ids=["rotten", "gone"])
def test_nothing_goes_back_to_a_version_whose_files_are_damaged(
    tmp_path: Path, table_bundle: Bundle, newer_bundle: Bundle, harm: Callable[[Path], None]
) -> None:
    publish(table_bundle, str(tmp_path), "stable")
    first = _blobs(tmp_path)
    publish(newer_bundle, str(tmp_path), "stable")
    harm(first[0])
    before = _files(tmp_path)

    with pytest.raises(InputError, match=r"of version 1 is damaged or gone"):
        rollback(str(tmp_path), "stable")
    assert _files(tmp_path) == before


@pytest.mark.parametrize(("umask", "modes"), [(0o022, (0o644, 0o755)), (0o007, (0o660, 0o770))])
def test_published_files_can_be_read_by_whom_the_umask_allows(
    tmp_path: Path, table_bundle: Bundle, newer_bundle: Bundle, umask: int, modes: tuple[int, int]
) -> None:
    before = os.umask(umask)
    try:
        for bundle in (table_bundle, newer_bundle):
            publish(bundle, str(tmp_path / "r"), "stable")
    finally:
        os.umask(before)
    for path in (tmp_path / "r").rglob("*"):
        assert path.stat().st_mode & 0o777 == modes[path.is_dir()], path


def test_folders_of_a_new_repository_are_on_the_disk(
    tmp_path: Path, table_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[Path] = set()
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        synced.add(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    publish(table_bundle, str(tmp_path / "a" / "r"), "stable")

    assert {p for p in (tmp_path / "a").rglob("*") if p.is_dir()} | {tmp_path / "a", tmp_path} <= synced


def _publish_in_child(bundle: Bundle, repository: str, channel: str, percent: int) -> Release:
    return publish(bundle, repository, channel, cohort_percent=percent)


def test_publishers_at_the_same_time_get_versions_of_their_own(tmp_path: Path, table_bundle: Bundle) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        jobs = [(table_bundle, str(tmp_path), "stable", percent) for percent in range(10, 18)]
        releases = pool.starmap(_publish_in_child, jobs)

    assert sorted(release.version for release in releases) == list(range(1, 9))


def test_fsspec_url_works_as_a_repository(table_bundle: Bundle, newer_bundle: Bundle) -> None:
    url = "memory://edgewright-test-releases"
    try:
        publish(table_bundle, url, "stable")
        release = publish(newer_bundle, url, "stable")
        assert (release.version, release.repository) == (2, url)
        assert rollback(url, "stable").content_of == 1
        assert current_release(url, "stable")[0].version == 3
    finally:
        fsspec.filesystem("memory").rm("/edgewright-test-releases", recursive=True)


def test_second_publisher_to_a_remote_repository_is_refused_not_interleaved(
    table_bundle: Bundle, newer_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "memory://edgewright-test-claims"
    memory = fsspec.filesystem("memory")
    write = ReleaseRepository.write
    refusals: list[str] = []

    def meanwhile(self: ReleaseRepository, name: str, content: bytes) -> None:
        if name.startswith("channels/"):  # everything but the index is written: the worst moment for a second one
            for second in (lambda: publish(newer_bundle, url, "stable"), lambda: rollback(url, "stable")):
                with pytest.raises(TransientError) as refused:
                    second()
                refusals.append(str(refused.value))
        write(self, name, content)

    try:
        monkeypatch.setattr(ReleaseRepository, "write", meanwhile)
        first = publish(table_bundle, url, "stable")
        monkeypatch.undo()

        assert current_release(url, "stable")[0] == first
        assert len(refusals) == 2
        for refusal in refusals:  # however long it took, or the clocks differ
            assert re.search(r"another publisher is at work since \d+ s; try again later, or delete", refusal)
        assert publish(newer_bundle, url, "stable").version == 2, "the claim was released"
    finally:
        memory.rm("/edgewright-test-claims", recursive=True)


def test_publisher_that_fails_releases_its_claim(table_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "memory://edgewright-test-failing"

    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        monkeypatch.setattr(ReleaseRepository, "write", broken)
        with pytest.raises(KeyboardInterrupt):
            publish(table_bundle, url, "stable")
        monkeypatch.undo()
        assert publish(table_bundle, url, "stable").version == 1
    finally:
        fsspec.filesystem("memory").rm("/edgewright-test-failing", recursive=True)


@pytest.fixture
def remote() -> Iterator[str]:
    """An address below which nothing is there yet, in a store that is not on local disk."""
    yield "memory://edgewright-test-remote"
    memory = fsspec.filesystem("memory")
    if memory.exists("/edgewright-test-remote"):
        memory.rm("/edgewright-test-remote", recursive=True)


def test_remote_store_that_has_folders_gets_them(remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe_file = MemoryFileSystem.pipe_file

    def into_a_folder(self: MemoryFileSystem, path: str, value: bytes, **how: str) -> None:
        if not self.isdir(self._parent(path)):  # as over SFTP
            raise FileNotFoundError(path)
        pipe_file(self, path, value, **how)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", into_a_folder)
    files = ReleaseRepository(remote)
    with files.exclusive():
        files.write("channels/one.json", b"{}")

    assert files.read("channels/one.json") == b"{}"


def test_claim_that_another_releases_while_it_is_refused_is_no_fault_of_the_store(
    remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(*_: object, **__: object) -> None:
        raise FileExistsError

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", taken)

    with (
        pytest.raises(TransientError, match="another publisher is at work; try again later"),
        ReleaseRepository(remote).exclusive(),
    ):
        pytest.fail("claimed")


def test_claim_that_another_overwrites_is_the_others(remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a store whose creation of a file is not one step, the last of two publishers has it."""
    pipe_file, other = MemoryFileSystem.pipe_file, b'{"owner": "another", "since_s": 0}'

    def both(self: MemoryFileSystem, path: str, value: bytes, **how: str) -> None:
        pipe_file(self, path, value, **how)
        pipe_file(self, path, other)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", both)
    files = ReleaseRepository(remote)

    with pytest.raises(TransientError, match="another publisher is at work since"), files.exclusive():
        pytest.fail("claimed")
    assert files.read("publishing.lock") == other


@pytest.mark.parametrize("channel", ["", "../up", "Stable", "a" * 65])
def test_channel_name_must_be_plain(tmp_path: Path, table_bundle: Bundle, channel: str) -> None:
    with pytest.raises(InputError, match="channel"):
        publish(table_bundle, str(tmp_path), channel)
    assert not list(tmp_path.glob("channels/*"))


def test_unusable_repository_or_share_is_one_clear_line(tmp_path: Path, table_bundle: Bundle) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be"):
        publish(table_bundle, str(tmp_path / "file"), "stable")
    with pytest.raises(InputError, match="nosuch"):
        publish(table_bundle, "nosuch://bucket", "stable")
    with pytest.raises(InputError, match="cohort_percent = 101"):
        publish(table_bundle, str(tmp_path), "stable", cohort_percent=101)


def test_damaged_index_is_reported_and_not_overwritten(
    tmp_path: Path, table_bundle: Bundle, newer_bundle: Bundle
) -> None:
    publish(table_bundle, str(tmp_path), "stable")
    index = tmp_path / "channels" / "churn.edge_device.stable.json"
    index.write_bytes(b"{")

    with pytest.raises(InputError, match="not valid JSON"):
        publish(newer_bundle, str(tmp_path), "stable")
    assert index.read_bytes() == b"{"


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
