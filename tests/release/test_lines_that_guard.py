"""Single lines that keep a release whole: each was once broken without any test noticing."""

import hashlib
import lzma
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from edgewright.artifact import Format
from edgewright.cloud.database import Database
from edgewright.package import Bundle
from edgewright.release import publish
from edgewright.release.repository import ReleaseRepository
from edgewright.store import Store
from edgewright_runtime.bundle.manifest import FileEntry
from edgewright_runtime.bundle.release import ChannelIndex, FileDelta, check_release, parse_release
from edgewright_runtime.codec import patch
from edgewright_runtime.errors import IntegrityError
from edgewright_runtime.update import bundle_fetch
from edgewright_runtime.update.bundle_fetch import BundleFetch
from edgewright_runtime.update.installation import Installation
from edgewright_runtime.update.transport import Repository


def test_every_part_of_an_artifact_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tmp_path / "m.mlpackage"
    (given / "data").mkdir(parents=True)
    (given / "data" / "weights.bin").write_bytes(b"w")
    synced: set[int] = set()
    real = os.fsync

    def noted(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    kept = Store(tmp_path / "store").put(given, Format.MLPACKAGE).path
    parts = [kept, kept / "data", kept / "data" / "weights.bin"]
    assert {part.stat().st_ino for part in parts} <= synced


def test_a_file_of_the_right_length_and_other_bytes_gets_no_name(tmp_path: Path) -> None:
    entry = FileEntry("model.onnx", 4, hashlib.sha256(b"good").hexdigest())
    with pytest.raises(IntegrityError, match="4 bytes with SHA-256"):
        bundle_fetch._write_checked([b"evil"], entry, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
    bundle_fetch._write_checked([b"go", b"od"], entry, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == b"good"


def test_a_patch_that_the_release_does_not_name_reaches_no_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base").write_bytes(b"base")
    one = BundleFetch(Repository("https://example.invalid"), Installation(tmp_path / "root"))
    monkeypatch.setattr(one, "_repository", SimpleNamespace(blocks=lambda *_: iter([b"another patch"])))
    monkeypatch.setattr(bundle_fetch, "apply_patch", lambda *_: pytest.fail("decoded"))
    digest = hashlib.sha256(b"base").hexdigest()
    delta = FileDelta("m", "base", digest, "bsdiff", hashlib.sha256(b"the patch").hexdigest(), 13)
    with pytest.raises(IntegrityError, match="not the one that the release names"):
        one._patch(delta, FileEntry("m", 4, digest), tmp_path, tmp_path / "m")


def test_a_release_of_the_right_length_and_other_bytes_is_refused(tmp_path: Path, table_bundle: Bundle) -> None:
    publish(table_bundle, str(tmp_path), "stable")
    content = next((tmp_path / "releases").rglob("1.json")).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    index = ChannelIndex(parse_release(content).line, 1, len(content), digest)
    assert check_release(content, index).version == 1
    changed = content.replace(b'"cohort_percent":100', b'"cohort_percent":101').replace(
        b'"cohort_percent": 100', b'"cohort_percent": 101'
    )
    assert len(changed) == len(content)
    assert changed != content
    with pytest.raises(IntegrityError, match="not the bytes"):
        check_release(changed, index)


def test_xz_that_is_cut_off_or_too_long_is_refused() -> None:
    packed = lzma.compress(b"x" * 1000)
    assert patch._unpacked(packed, 1000) == b"x" * 1000
    for stream, most in ((packed[:-8], 1000), (packed, 999), (lzma.compress(b"x" * (50 << 20)), 1000)):
        with pytest.raises(IntegrityError, match="cut off, or unpacks to more"):
            patch._unpacked(stream, most)


def test_a_confirmed_record_outlives_a_power_cut(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'cloud.db'}")
    try:
        with database._engine.connect() as connection:
            assert connection.execute(sa.text("PRAGMA synchronous")).scalar() == 2  # FULL
            assert connection.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"
    finally:
        database.close()


def test_a_second_publisher_waits(tmp_path: Path) -> None:
    order: list[str] = []
    inside, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with ReleaseRepository(str(tmp_path)).exclusive():
            inside.set()
            go_on.wait(20)
            order.append("first")

    def wait() -> None:
        with ReleaseRepository(str(tmp_path)).exclusive():
            order.append("second")

    threads = [threading.Thread(target=f) for f in (hold, wait)]
    threads[0].start()
    assert inside.wait(20)
    threads[1].start()
    threads[1].join(0.3)
    assert order == []
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert order == ["first", "second"]
