from pathlib import Path

import pytest

from edgewright.artifact import Format, digest_of
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


def test_workspace_is_gone_after_an_error(store: Store) -> None:
    def work() -> None:
        with store.workspace() as scratch:
            (scratch / "half").write_bytes(b"written")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert list((store.root / "scratch").iterdir()) == []


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


def test_lineage_is_followed_to_the_source(store: Store, tmp_path: Path) -> None:
    for name in ("source", "graph", "exported"):
        (tmp_path / name).write_text(name)
    source = store.put(tmp_path / "source", Format.PT2)
    graph = store.put(tmp_path / "graph", Format.TORCH_GRAPH, parent=source.digest)
    exported = store.put(tmp_path / "exported", Format.TFLITE, parent=graph.digest)
    assert store.ancestors(exported.digest) == [graph.digest, source.digest]
    assert store.ancestors(source.digest) == []
