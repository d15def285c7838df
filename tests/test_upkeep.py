"""`edgewright store` on a home: what is damaged is found, removed and told; a limit is kept."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect import flow

from edgewright.artifact import Artifact, Format
from edgewright.codec.download import transfer_form
from edgewright.errors import InputError
from edgewright.store import Store
from edgewright.upkeep import check_home, collect_home, repair_home
from tasks.caching import run, step
from tests.bundles import onnx_file


@pytest.fixture
def store(edgewright_home: Path) -> Store:
    return Store()


def put(store: Store, folder: Path, name: str, size: int = 1000) -> Artifact:
    (folder / name).write_bytes(name.encode() * size)
    return store.put(folder / name, Format.ONNX)


def command(*words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "edgewright", "store", *words]
    return subprocess.run(line, capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"})


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_whole_home_is_said_to_be_whole(store: Store, tmp_path: Path) -> None:
    put(store, tmp_path, "a")
    found = check_home(store)
    assert found.damaged == ()
    assert "1 objects" in found.summary
    assert repair_home(store) == []


def _object(store: Store, folder: Path) -> Path:
    return put(store, folder, "a").path


def _inside_a_folder(store: Store, folder: Path) -> Path:
    (folder / "m.mlpackage").mkdir()
    (folder / "m.mlpackage" / "weights.bin").write_bytes(b"w" * 100)
    return store.put(folder / "m.mlpackage", Format.MLPACKAGE).path / "weights.bin"


def _transfer(store: Store, folder: Path) -> Path:
    onnx_file(folder / "m.onnx", 3)
    transfer_form(folder / "m.onnx")
    return next(store.root.glob("transfer/*/packed"))


def _lineage(store: Store, folder: Path) -> Path:
    (folder / "b").write_bytes(b"b")
    made = store.put(folder / "b", Format.ONNX, parent="a" * 64)
    path = store.root / "lineage" / made.digest
    path.write_bytes(b"\xff" + path.read_bytes()[1:])
    return path


def _result(store: Store, folder: Path) -> Path:
    @step("Measuring", "edgewright.store")
    def measure(salt: str) -> float:
        return 0.9125

    @flow
    def measured() -> float:
        return run(measure, str(folder))

    measured()
    kept = [p for p in Path(os.environ["PREFECT_LOCAL_STORAGE_PATH"]).glob("measure-*") if b"0.9125" in p.read_bytes()]
    content = kept[0].read_bytes().replace(b"0.9125", b"0.8125")
    kept[0].unlink()
    path = store.root / "results" / "measure-1"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("make", [_object, _inside_a_folder, _transfer, _lineage, _result])
def test_one_rotten_byte_is_found_and_repaired(
    store: Store, tmp_path: Path, make: Callable[[Store, Path], Path]
) -> None:
    path = make(store, tmp_path)
    if make not in {_lineage, _result}:
        spoil(path)

    (line,) = check_home(store).damaged
    (done,) = repair_home(store)

    assert str(store.root) in line
    assert done.startswith(line)
    assert "removed" in done
    assert not path.exists()
    assert check_home(store).damaged == ()


def test_commands_say_what_they_found_and_did(store: Store, tmp_path: Path) -> None:
    artifact = put(store, tmp_path, "a")
    assert (command("check").returncode, command("repair").stdout) == (0, "everything is whole\n")
    spoil(artifact.path)

    check = command("check")
    repair = command("repair")

    assert (check.returncode, repair.returncode, command("check").returncode) == (1, 0, 0)
    assert f"{artifact.path}: its SHA-256 is" in check.stdout
    assert "removed" in repair.stdout
    assert command("gc", "--max-gb", "-1").stderr == "error --max-gb -1: a size of 0 or more is needed\n"
    assert "removed 0 of 0 folders" in command("gc", "--max-gb", "0").stdout


def test_limit_is_kept_and_what_was_of_use_last_stays(store: Store, tmp_path: Path) -> None:
    made = [put(store, tmp_path, name) for name in "abcd"]
    report = store.root / "reports" / "r1" / "report.json"
    report.parent.mkdir(parents=True)
    report.write_bytes(b"r" * 1000)
    for age, path in enumerate([*(a.path.parent for a in made), report.parent]):
        os.utime(path, (1e9 + age, 1e9 + age))
    assert store.holds(made[0])

    said = collect_home(store, 2500)

    assert [store.holds(artifact) for artifact in made] == [True, False, False, False]
    assert report.exists()
    assert said[:2] == ["removed 3 of 5 folders, 0.00 MB", "kept 0.00 MB"]
    collect_home(store, None)
    assert store.holds(made[0])


def test_record_that_waits_keeps_its_bundle(store: Store, tmp_path: Path) -> None:
    waiting, other = put(store, tmp_path, "a"), put(store, tmp_path, "b")
    (store.root / "tracking").mkdir()
    (store.root / "tracking" / "r.json").write_text(json.dumps({"artifacts": [str(waiting.path)]}))

    said = collect_home(store, 0)

    assert [store.holds(waiting), store.holds(other)] == [True, False]
    assert said[1].endswith("what waits to be uploaded")


def test_results_that_name_a_removed_object_go_with_it(store: Store, tmp_path: Path) -> None:
    old, new = put(store, tmp_path, "a"), put(store, tmp_path, "b")
    os.utime(old.path.parent, (1e9, 1e9))
    (store.root / "results").mkdir()
    for artifact in (old, new):
        (store.root / "results" / artifact.digest[:8]).write_text(json.dumps({"path": str(artifact.path)}))

    collect_home(store, 1000)

    assert [p.name for p in (store.root / "results").iterdir()] == [new.digest[:8]]


def test_nothing_is_removed_while_a_run_is_at_work(store: Store, tmp_path: Path) -> None:
    made = put(store, tmp_path, "a")
    with store.in_use(), store.in_use(), pytest.raises(InputError, match="a run is at work"):
        collect_home(store, 0)
    assert store.holds(made)
    collect_home(store, 0)
    assert not store.holds(made)


def test_what_a_killed_writer_left_is_removed_once_it_is_old(store: Store) -> None:
    left, fresh = (store.root / "tracking" / f".r.json.{n:08x}" for n in (1, 2))
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    fresh.write_bytes(b"half")
    old = time.time() - 7200
    os.utime(left, (old, old))

    (done,) = repair_home(store)

    assert done.startswith(f"{left}: half-written")
    assert (left.exists(), fresh.exists()) == (False, True)


@pytest.mark.parametrize("name", [".hf.metadata", ".m.0123abcd"])
def test_files_of_the_users_are_not_half_written_whatever_their_names(store: Store, tmp_path: Path, name: str) -> None:
    (tmp_path / "model").mkdir()
    for file in ("weights.bin", name):
        (tmp_path / "model" / file).write_bytes(b"w")
    kept = store.put(tmp_path / "model", Format.SAVED_MODEL)
    mine = store.root / "mine" / name
    mine.parent.mkdir()
    mine.write_bytes(b"m")
    for path in (kept.path / name, mine):
        os.utime(path, (1e9, 1e9))

    assert repair_home(store) == []

    assert store.holds(kept)
    assert mine.exists()


@pytest.mark.parametrize("place", ["servers.json", "demo/a.md", "exports/a.json", "reports/a/b.html"])
def test_half_written_files_are_found_wherever_a_file_is_replaced(store: Store, place: str) -> None:
    left = store.root / place
    left = left.with_name(f".{left.name}.0123abcd")
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    os.utime(left, (1e9, 1e9))

    assert repair_home(store)[-1] == f"{left}: half-written by a killed run; removed"
    assert not left.exists()


_PLACES: dict[str, Callable[[Artifact], Path]] = {
    "object": lambda kept: kept.path,
    "its folder": lambda kept: kept.path.parent,
    "the folder above": lambda kept: kept.path.parent.parent,
}
_INTRUDERS: dict[str, Callable[[Path], object]] = {
    "file": lambda path: path.write_text("x"),
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "pipe": os.mkfifo,
}


@pytest.mark.parametrize("place", _PLACES)
@pytest.mark.parametrize("kind", _INTRUDERS)
@pytest.mark.parametrize("repaired", [True, False])
def test_whatever_stands_in_the_place_of_an_object_is_found_and_replaced(
    store: Store, tmp_path: Path, place: str, kind: str, repaired: bool
) -> None:
    kept = put(store, tmp_path, "a")
    spot = _PLACES[place](kept)
    shutil.rmtree(spot) if spot.is_dir() else spot.unlink()
    _INTRUDERS[kind](spot)

    assert [line.partition(":")[0] for line in check_home(store).damaged] == [str(spot)]
    assert not store.holds(kept)
    if repaired:
        assert len(repair_home(store)) == 1
        assert not os.path.lexists(spot)
    assert store.holds(put(store, tmp_path, "a"))
    assert check_home(store).damaged == ()


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b"1" * 5000, b'{"packed": 1}'], ids=lambda c: repr(c[:9]))
def test_notes_that_say_nothing_are_found_and_removed(store: Store, tmp_path: Path, content: bytes) -> None:
    notes = [store.root / name for name in ("results/a", "exports/a.json", "transfer/a/parts.json")]
    for note in notes:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_bytes(content)
    wanted = [notes[2].parent] if content.startswith(b"{") else [notes[0], notes[1], notes[2].parent]
    assert {line.partition(":")[0] for line in check_home(store).damaged} == {str(path) for path in wanted}
    assert len(repair_home(store)) == len(wanted)
    assert check_home(store).damaged == ()


@pytest.mark.parametrize("result", [None, 3, ["x"], {}])
def test_sealed_result_that_is_no_text_is_damaged(store: Store, result: object) -> None:
    (store.root / "results").mkdir(parents=True)
    kept = {"metadata": {"serializer": {"jsonlib": "edgewright.sealed_json"}}, "result": result}
    (store.root / "results" / "a").write_text(json.dumps(kept))
    assert len(check_home(store).damaged) == 1


@pytest.mark.parametrize("content", [b'{"metadata": []}', b'{"metadata": {"serializer": 3}}', b"[]"])
def test_result_of_another_kind_is_none_of_ours(store: Store, content: bytes) -> None:
    (store.root / "results").mkdir(parents=True)
    (store.root / "results" / "a").write_bytes(content)
    assert check_home(store).damaged == ()


def test_links_that_lead_nowhere_do_not_stop_the_collection(store: Store, tmp_path: Path) -> None:
    put(store, tmp_path, "a")
    for folder in ("objects/aa", "transfer", "reports"):
        (store.root / folder).mkdir(parents=True, exist_ok=True)
        (store.root / folder / "loop").symlink_to("loop")
    assert collect_home(store, 0)[0].startswith("removed 4 of 4 folders")
