import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgewright.artifact import Format, digest_of
from edgewright.errors import InputError
from edgewright.progress import Announcement, progress
from edgewright.scratch import abandoned
from edgewright.store import Store, replace_file


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_put_file_is_found_by_its_digest(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"content")
    artifact = store.put(tmp_path / "a.bin", Format.ONNX)
    assert artifact.path.read_bytes() == b"content"
    assert artifact.digest in artifact.path.parts
    assert store.holds(artifact)
    assert store.put(tmp_path / "a.bin", Format.ONNX) == artifact


def test_object_lies_under_the_first_two_digits_of_its_digest(store: Store, tmp_path: Path) -> None:
    artifact = store.put(_one_file(tmp_path), Format.ONNX)
    assert artifact.path == store.root / "objects" / artifact.digest[:2] / artifact.digest / "a"


def test_same_content_under_two_names_keeps_both(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    first = store.put(tmp_path / "a", Format.ONNX, name="first")
    second = store.put(tmp_path / "a", Format.ONNX, name="second")
    assert first.path.exists()
    assert second.path.exists()
    assert first.digest == second.digest


def test_folder_digest_follows_names_and_content_only(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "f").write_bytes(b"x")
    assert digest_of(tmp_path / "one") == digest_of(tmp_path / "two")
    (tmp_path / "two" / "sub" / "f").rename(tmp_path / "two" / "sub" / "g")
    assert digest_of(tmp_path / "one") != digest_of(tmp_path / "two")


def test_changed_file_is_no_longer_held(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    artifact = store.put(tmp_path / "a", Format.ONNX)
    artifact.path.write_bytes(b"y")
    assert not store.holds(artifact)


def _one_file(folder: Path) -> Path:
    (folder / "a").write_bytes(b"content")
    return folder / "a"


def _package(folder: Path) -> Path:
    (folder / "m.mlpackage" / "Data").mkdir(parents=True)
    (folder / "m.mlpackage" / "Data" / "weights.bin").write_bytes(b"weights")
    (folder / "m.mlpackage" / "Manifest.json").write_bytes(b"{}")
    return folder / "m.mlpackage"


def _spoil(path: Path) -> None:
    """One bit of one file is another."""
    file = next(p for p in [path, *sorted(path.rglob("*"))] if p.is_file())
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("make", [_one_file, _package])
def test_rotten_byte_is_replaced_and_said(store: Store, tmp_path: Path, make: Callable[[Path], Path]) -> None:
    source = make(tmp_path)
    artifact = store.put(source, Format.MLPACKAGE)
    _spoil(artifact.path)
    said: list[Announcement] = []

    with progress.listening(said.append):
        again = store.put(source, Format.MLPACKAGE)

    assert again == artifact
    assert store.holds(again)
    assert [event.title for event in said] == [
        f"{artifact.path}: not the content of its name, a disk error perhaps; replaced"
    ]
    assert _scratch(store) == []


def test_content_that_is_whole_is_not_written_again(store: Store, tmp_path: Path) -> None:
    artifact = store.put(_one_file(tmp_path), Format.ONNX)
    written = artifact.path.stat().st_mtime_ns

    store.put(tmp_path / "a", Format.ONNX)

    assert artifact.path.stat().st_mtime_ns == written


def test_content_that_is_put_again_counts_as_used_now(store: Store, tmp_path: Path) -> None:
    artifact = store.put(_one_file(tmp_path), Format.ONNX)
    os.utime(artifact.path.parent, (0, 0))

    store.put(tmp_path / "a", Format.ONNX)

    assert artifact.path.parent.stat().st_mtime > 0


def _put_spoilt(root: Path, source: Path, _: int) -> bool:
    return Store(root).holds(Store(root).put(source, Format.ONNX))


def test_many_processes_replace_the_same_rotten_file(store: Store, tmp_path: Path) -> None:
    artifact = store.put(_package(tmp_path), Format.MLPACKAGE)
    _spoil(artifact.path)

    with multiprocessing.get_context("spawn").Pool(4) as pool:
        jobs = [(store.root, tmp_path / "m.mlpackage", n) for n in range(16)]
        assert all(pool.starmap(_put_spoilt, jobs))


def test_content_that_another_process_placed_meanwhile_is_left_as_it_is(store: Store, tmp_path: Path) -> None:
    source, said = _one_file(tmp_path), list[Announcement]()
    target = store.root / "objects" / digest_of(source)[:2] / digest_of(source) / "a"

    def put() -> None:
        with progress.listening(said.append):
            store.put(source, Format.ONNX)

    slower = threading.Thread(target=put)
    with store.alone():
        slower.start()
        while not list((store.root / "scratch").glob("*/a")):
            time.sleep(0.01)
        target.parent.mkdir(parents=True)
        target.write_bytes(b"content")
        placed = target.stat().st_ino
    slower.join()

    assert target.stat().st_ino == placed
    assert said == []


def test_content_that_the_disk_no_longer_gives_is_not_held(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = store.put(_one_file(tmp_path), Format.ONNX)

    def unreadable(path: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("edgewright.store.digest_of", unreadable)
    assert not store.holds(artifact)


def test_file_that_changes_while_it_is_copied_is_not_kept_under_the_old_digest(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _one_file(tmp_path)

    def late(path: Path, target: Path) -> None:
        target.write_bytes(path.read_bytes() + b"more")

    monkeypatch.setattr("edgewright.store.shutil.copyfile", late)

    with pytest.raises(InputError, match="changed while it was copied"):
        store.put(source, Format.ONNX)
    assert not list((store.root / "objects").glob("*/*/*"))


@pytest.mark.parametrize("make", [_one_file, _package])
def test_content_is_on_the_disk_before_it_gets_its_name_and_its_folders_after(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Path]
) -> None:
    """A power cut leaves what was synced: the content, and each name on the way to it."""
    source = make(tmp_path)
    synced: list[Path] = []
    fsync, rename = os.fsync, Path.replace
    before: list[Path] = []
    renamed_at: list[int] = []

    def recorded(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        renamed_at.append(len(synced))
        before.extend(Path(str(p).replace(str(self), str(target))) for p in synced)
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", recorded)
    monkeypatch.setattr(Path, "replace", renamed)
    artifact = store.put(source, Format.MLPACKAGE)

    assert {artifact.path, *artifact.path.rglob("*")} <= set(before)
    names = [artifact.path.parents[i] for i in range(5)]  # digest, two digits, objects, store, the folder above it
    assert set(names) <= set(synced)
    assert artifact.path.parent in synced[renamed_at[0] :]


def _child(root: Path, ready: Path) -> subprocess.Popen[bytes]:
    code = (
        "import sys, time; from pathlib import Path; from edgewright.store import Store\n"
        "with Store(Path(sys.argv[1])).workspace() as folder:\n"
        "    (folder / 'half').write_bytes(bytes(1 << 20)); Path(sys.argv[2]).write_text(folder.name); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(root), str(ready)])
    while not ready.exists():
        assert process.poll() is None
        time.sleep(0.02)
    return process


def test_scratch_folder_of_a_killed_run_is_removed_by_the_next_and_that_of_a_running_one_is_not(
    store: Store, tmp_path: Path
) -> None:
    killed, running = (_child(store.root, tmp_path / name) for name in ("killed", "running"))
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert [path.name for path in abandoned(store.root / "scratch")] == [(tmp_path / "killed").read_text()]
    (store.root / "scratch" / "tmpof1.0").mkdir()  # of a version that had no locks

    with store.workspace() as own:
        left = {path.name for path in _scratch(store) if path.is_dir()}

    assert left == {(tmp_path / "running").read_text(), own.name}
    running.terminate()
    running.wait()
    with store.workspace():
        pass
    assert _scratch(store) == []


def test_workspace_is_gone_after_an_error(store: Store) -> None:
    def work() -> None:
        with store.workspace() as scratch:
            (scratch / "half").write_bytes(b"written")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert _scratch(store) == []


def _scratch(store: Store) -> list[Path]:
    return [path for path in (store.root / "scratch").iterdir() if path.name != ".lock"]


def test_replace_file_leaves_the_old_content_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "index.json"
    replace_file(target, b"old")

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        replace_file(target, b"new")
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["index.json"]


@pytest.mark.parametrize("step", ["open", "replace"])
def test_replace_file_tells_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, step, no_space)
    with pytest.raises(OSError, match="No space"):
        replace_file(tmp_path / "index.json", b"new")
    assert list(tmp_path.iterdir()) == []


def test_replaced_file_is_on_the_disk_before_it_gets_its_name_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "index.json"
    synced: list[tuple[Path, int, bool]] = []

    def recorded(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((path.parent if path.is_file() else path, path.stat().st_size, target.exists()))

    monkeypatch.setattr(os, "fsync", recorded)
    replace_file(target, b"content")
    folder = tmp_path.stat().st_size
    assert synced == [(tmp_path, len(b"content"), False), (tmp_path, folder, True)]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_replaced_file_has_the_mode_that_the_umask_leaves(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        replace_file(tmp_path / "f", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "f").stat().st_mode & 0o777 == mode


def test_lineage_is_followed_to_the_source(store: Store, tmp_path: Path) -> None:
    for name in ("source", "graph", "exported"):
        (tmp_path / name).write_text(name)
    source = store.put(tmp_path / "source", Format.PT2)
    graph = store.put(tmp_path / "graph", Format.TORCH_GRAPH, parent=source.digest)
    exported = store.put(tmp_path / "exported", Format.TFLITE, parent=graph.digest)
    assert store.ancestors(exported.digest) == [graph.digest, source.digest]
    assert store.ancestors(source.digest) == []


@pytest.mark.parametrize("record", [b"\xff" * 64, b"a\0b", b"../../../etc/passwd", b"a" * 5000, b""])
def test_lineage_that_rotted_ends_there_and_is_said(store: Store, tmp_path: Path, record: bytes) -> None:
    (tmp_path / "exported").write_text("exported")
    exported = store.put(tmp_path / "exported", Format.TFLITE, parent="0" * 64)
    (store.root / "lineage" / ("0" * 64)).write_bytes(record)
    said: list[Announcement] = []
    with progress.listening(said.append):
        assert store.ancestors(exported.digest) == ["0" * 64]
    assert [event for event in said if "holds no digest" in str(event)]


def test_folder_behind_a_link_is_content_like_any_other(store: Store, tmp_path: Path) -> None:
    model, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    (model / "plain").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "w").write_bytes(b"weights")
    (model / "variables").symlink_to(elsewhere)
    before = digest_of(model)

    artifact = store.put(model, Format.SAVED_MODEL)

    assert store.holds(artifact)
    assert (artifact.path / "variables" / "w").read_bytes() == b"weights"
    assert artifact.size_bytes == 7
    (elsewhere / "w").write_bytes(b"others")
    assert digest_of(model) != before


def test_links_that_lead_in_a_circle_or_nowhere_are_refused(store: Store, tmp_path: Path) -> None:
    for name, target in (("round", ".."), ("lost", "nowhere"), ("self", "self")):
        folder = tmp_path / name / "model"
        folder.mkdir(parents=True)
        (folder / "link").symlink_to(target)
        with pytest.raises(InputError, match=r"link.*(plain files|the files themselves)") as caught:
            store.put(folder, Format.SAVED_MODEL)
        assert "\n" not in str(caught.value)
    a, b = tmp_path / "a", tmp_path / "b"
    for folder, other in ((a, b), (b, a)):
        folder.mkdir()
        (folder / "x").symlink_to(other)
    with pytest.raises(InputError, match="leads back"):
        store.put(a, Format.SAVED_MODEL)


def test_links_that_double_what_there_is_to_walk_are_refused(tmp_path: Path) -> None:
    for level in range(24):
        (tmp_path / str(level)).mkdir()
        for link in "ab":
            (tmp_path / str(level) / link).symlink_to(f"../{level + 1}")
    (tmp_path / "24").mkdir()
    with pytest.raises(OSError, match="more than 20,000 folders, by links"):
        digest_of(tmp_path / "0")


def test_name_that_is_not_utf8_is_part_of_the_digest(store: Store, tmp_path: Path) -> None:
    digests = set()
    for name in (b"caf\xe9", "café".encode()):
        folder = tmp_path / hashlib.sha256(name).hexdigest()[:4]
        folder.mkdir()
        (folder / os.fsdecode(name)).write_bytes(b"x")
        artifact = store.put(folder, Format.SAVED_MODEL)
        assert store.holds(artifact)
        digests.add(artifact.digest)
    assert len(digests) == 2
