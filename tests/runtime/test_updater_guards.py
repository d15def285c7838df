"""What an update refuses before it fetches or keeps anything, each guard alone."""

import errno
import hashlib
import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgewright_runtime.bundle.manifest import FileEntry
from edgewright_runtime.bundle.release import Blob, FileDelta, ReleaseDocument
from edgewright_runtime.errors import IntegrityError, RollbackError, ShortageError
from edgewright_runtime.update import bundle_fetch
from edgewright_runtime.update.bundle_fetch import BundleFetch
from edgewright_runtime.update.installation import Installation
from edgewright_runtime.update.updater import Updater
from tests.runtime.small_releases import BUNDLE_BYTES, keep, release_of

BASE, PATCH = b"the base", b"the patch"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def client(tmp_path: Path) -> Updater:
    return Updater(str(tmp_path / "repository"), "stable", tmp_path / "device")


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path / "device")


@pytest.fixture
def fetched(client: Updater, installation: Installation, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the releases whose bundles were asked for; each is offered by `offer`."""
    names: list[str] = []

    def fetch(_: BundleFetch, release: ReleaseDocument, try_bundle: object) -> None:
        names.append(release.name)
        folder = installation.bundle_folder(release.manifest.sha256)
        folder.mkdir(exist_ok=True)
        (folder / "model.onnx").write_bytes(b"\0" * BUNDLE_BYTES)

    monkeypatch.setattr(BundleFetch, "fetch", fetch)
    return names


def offer(monkeypatch: pytest.MonkeyPatch, release: ReleaseDocument) -> None:
    monkeypatch.setattr(Updater, "_latest_release", lambda _: (release, release.to_json()))


def test_refused_release_is_not_fetched_again(
    client: Updater, installation: Installation, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, release_of(2))
    installation.refuse(release_of(2).name, "it does not work here")

    with pytest.raises(RollbackError, match=r"is not taken again \(it does not work here\)"):
        client.update()
    assert fetched == []


def test_postponed_release_waits_unless_it_is_wanted_at_once(
    client: Updater, installation: Installation, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, release_of(2))
    monkeypatch.setattr(client, "_clock", lambda: 1e9)
    installation.postpone(release_of(2).name, "out of memory", 1e9)

    with pytest.raises(ShortageError, match="could not be tried"):
        client.update()
    assert fetched == []
    assert client.update(at_once=True).status == "installed"
    assert fetched == [release_of(2).name]


@pytest.mark.parametrize(("beside", "status"), [(True, "current"), (False, "installed")])
def test_release_that_is_kept_beside_is_there_for_who_wants_it_beside_alone(
    client: Updater,
    installation: Installation,
    fetched: list[str],
    monkeypatch: pytest.MonkeyPatch,
    beside: bool,
    status: str,
) -> None:
    keep(installation, release_of(1))
    keep(installation, release_of(2), beside=True)
    offer(monkeypatch, release_of(2))

    assert client.update(beside=beside).status == status
    assert installation.current().name == release_of(1 if beside else 2).name


def test_older_releases_go_after_an_update(
    client: Updater, installation: Installation, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in (1, 2, 3):
        keep(installation, release_of(version))
    offer(monkeypatch, release_of(4))

    client.update(quota_bytes=2 * BUNDLE_BYTES)

    assert set(installation.names()) == {release_of(3).name, release_of(4).name}  # the one to go back to, and this


def delta(base: bytes = BASE, patch: bytes = PATCH) -> FileDelta:
    return FileDelta("model.onnx", "old.onnx", digest(base), "bsdiff", digest(patch), len(patch))


def patched(client: Updater, tmp_path: Path, asked: FileDelta, size: int = 10) -> None:
    fetch = BundleFetch(client._repository, client._installation)
    fetch._patch(asked, FileEntry("model.onnx", size, "0" * 64), tmp_path, tmp_path / "model.onnx")


@pytest.fixture
def served(client: Updater, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Updater:
    """A repository that answers with `PATCH`, a base that is here, and a codec that counts on both."""
    monkeypatch.setattr(client._repository, "blocks", lambda *_: iter([PATCH]))
    monkeypatch.setattr(bundle_fetch, "apply_patch", lambda *_: pytest.fail("an unusable patch was applied"))
    (tmp_path / "old.onnx").write_bytes(BASE)
    return client


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (delta(base=b"another base"), r"old\.onnx: not the base that the patch is for"),
        (delta(patch=b"another patch"), r"model\.onnx: the patch is not the one that the release names"),
    ],
)
def test_other_base_and_other_patch_are_refused_before_they_are_used(
    served: Updater, tmp_path: Path, asked: FileDelta, said: str
) -> None:
    with pytest.raises(IntegrityError, match=said):
        patched(served, tmp_path, asked)
    assert not (tmp_path / "model.onnx").exists()


def test_result_may_be_as_large_as_a_patch_can_make_and_no_larger(
    served: Updater, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_fetch, "MAX_PATCHED_BYTES", 20)
    with pytest.raises(IntegrityError, match="too large to be patched"):
        patched(served, tmp_path, delta(base=b"another"), size=21)
    with pytest.raises(IntegrityError, match="not the base"):  # the next guard
        patched(served, tmp_path, delta(base=b"another"), size=20)


@pytest.mark.parametrize(("code", "kind"), [(errno.EIO, IntegrityError), (errno.EMFILE, ShortageError)])
def test_base_that_cannot_be_read_is_at_fault_unless_files_are_short(
    served: Updater, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(bundle_fetch, "read_plain", refuse)
    with pytest.raises(kind, match=r"old\.onnx: cannot be read"):
        patched(served, tmp_path, delta())


CONTENT = b"a model"


def written(target: Path, content: bytes = CONTENT) -> None:
    bundle_fetch._write_checked([content], FileEntry("model.onnx", len(CONTENT), digest(CONTENT)), target)


@pytest.mark.parametrize("name", [".model.onnx.part", "model.onnx"])
def test_link_of_an_earlier_attempt_leads_nothing_elsewhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "other").write_bytes(b"another's")
    folder = tmp_path / "staged"
    folder.mkdir()
    (folder / name).symlink_to(tmp_path / "other")

    written(folder / "model.onnx")

    assert (tmp_path / "other").read_bytes() == b"another's"
    assert (folder / "model.onnx").read_bytes() == CONTENT
    assert not (folder / "model.onnx").is_symlink()


def test_file_is_whole_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, real = tmp_path / "model.onnx", os.fsync
    seen: list[tuple[int, bool]] = []

    def recorded(descriptor: int) -> None:
        seen.append((os.fstat(descriptor).st_size, target.exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    written(target)
    assert seen == [(len(CONTENT), False)]


def test_wrong_content_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="announced were 7"):
        written(tmp_path / "model.onnx", b"another")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("left", "free"),
    [
        ({}, 100),
        ({"model.onnx": 70}, 30),
        ({"model.onnx": 70, "labels.json": 30}, 0),
        ({"model.onnx": 70, ".labels.json.part": 20}, 10),
    ],
    ids=["nothing", "a file", "all files", "a part of a file"],
)
def test_what_an_earlier_attempt_staged_needs_no_room_again(
    client: Updater, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: dict[str, int], free: int
) -> None:
    sizes = {"model.onnx": 70, "labels.json": 30}
    files = tuple(Blob(name, size, digest(b""), digest(b""), 1) for name, size in sizes.items())
    release, staged = replace(release_of(2), files=files), tmp_path / "staged"
    staged.mkdir()
    for name, size in left.items():
        (staged / name).write_bytes(b"\0" * size)
    fetch = BundleFetch(client._repository, client._installation)

    def check(free_bytes: int) -> None:
        monkeypatch.setattr(bundle_fetch.shutil, "disk_usage", lambda _: SimpleNamespace(free=free_bytes))
        fetch._check_room(release, staged)

    check(free)
    with pytest.raises(ShortageError, match="no space left") if free else nullcontext():
        check(max(free - 1, 0))
