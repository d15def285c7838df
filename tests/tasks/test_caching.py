import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from prefect import Task, flow
from pydantic import BaseModel

from edgewright.artifact import Artifact, Format
from edgewright.errors import ConversionError, TransientError
from edgewright.progress import Announcement, progress
from edgewright.store import Store
from tasks.caching import artifacts_in, content_key, run, step

CODE = "edgewright.store"


def _artifact(path: Path, content: bytes) -> Artifact:
    path.write_bytes(content)
    return Store().put(path, Format.ONNX)


def test_key_follows_content_not_path(tmp_path: Path) -> None:
    first, second, other = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    first.write_bytes(b"same")
    second.write_bytes(b"same")
    other.write_bytes(b"other")
    assert content_key("t", "1", {"p": first}) == content_key("t", "1", {"p": second})
    assert content_key("t", "1", {"p": first}) != content_key("t", "1", {"p": other})


def test_key_changes_with_code_task_and_parameters() -> None:
    key = content_key("t", "1", {"n": 1})
    assert (
        len({key, content_key("t", "2", {"n": 1}), content_key("u", "1", {"n": 1}), content_key("t", "1", {"n": 2})})
        == 4
    )


def test_key_refuses_what_has_no_content() -> None:
    with pytest.raises(TypeError, match="no content to key by"):
        content_key("t", "1", {"x": object()})


def test_unchanged_task_is_not_run_again_until_its_file_is_gone(edgewright_home: Path, tmp_path: Path) -> None:
    calls: list[int] = []

    @step("Making a file", CODE)
    def make(number: int) -> Artifact:
        calls.append(number)
        return _artifact(tmp_path / "made", str(number).encode())

    @flow
    def twice() -> Artifact:
        run(make, 41)
        return run(make, 41)

    made = twice()
    assert calls == [41]
    made.path.unlink()
    assert twice().path.read_bytes() == b"41"
    assert calls == [41, 41]


@pytest.mark.parametrize("harm", [b"0.8125", b"0.x125", b""], ids=["another number", "not JSON", "cut off"])
def test_kept_result_with_a_rotten_byte_is_computed_anew_and_said(edgewright_home: Path, harm: bytes) -> None:
    calls: list[int] = []

    @step("Measuring", CODE)
    def measure(salt: str) -> float:
        calls.append(1)
        return 0.9125

    @flow
    def measured() -> float:
        return run(measure, str(edgewright_home))

    said: list[Announcement] = []
    with progress.listening(said.append):
        assert measured() == measured() == 0.9125
        assert (len(calls), [e for e in said if e.note]) == (1, [])
        results = Path(os.environ["PREFECT_LOCAL_STORAGE_PATH"])
        (kept,) = [p for p in results.glob("measure-*") if b"0.9125" in p.read_bytes()]
        content = kept.read_bytes()
        kept.write_bytes(content.replace(b"0.9125", harm) if harm else content[: len(content) // 2])

        assert measured() == 0.9125

    assert len(calls) == 2
    if harm:
        assert "a kept result is not what was written" in next(e.title for e in said if e.note)
    kept.unlink()


def test_rotten_byte_in_an_object_is_computed_anew_and_said(edgewright_home: Path, tmp_path: Path) -> None:
    @step("Making a file", CODE)
    def make(content: str) -> Artifact:
        return _artifact(tmp_path / "made", content.encode())

    @flow
    def once() -> Artifact:
        return run(make, f"content of {edgewright_home}")

    made = once()
    made.path.write_bytes(b"c0ntent")
    said: list[Announcement] = []
    with progress.listening(said.append):
        again = once()

    assert Store().holds(again)
    notes = [e.title for e in said if e.note]
    assert [str(made.path) in note for note in notes] == [True, True]
    assert "not what 'Making a file' made" in notes[0]
    assert "replaced" in notes[1]


class _Kept:
    """A task as `run` sees it, without Prefect's engine: what it made first is kept until that is refused."""

    name, description = "make", "Making files"

    def __init__(self, make: Callable[[], tuple[Artifact, ...]]) -> None:
        self.make, self.kept = make, make()

    def __call__(self) -> tuple[Artifact, ...]:
        return self.kept

    def with_options(self, *, refresh_cache: bool) -> Callable[[], tuple[Artifact, ...]]:
        return self.make if refresh_cache else self

    def run(self) -> tuple[tuple[Artifact, ...], list[Announcement]]:
        said: list[Announcement] = []
        with progress.listening(said.append):
            return run(cast("Task[[], Any]", self)), said


def test_what_runs_is_said_by_its_title(edgewright_home: Path) -> None:
    _, said = _Kept(lambda: ()).run()
    assert said == [Announcement("Making files", done=False), Announcement("Making files", done=True)]


def test_damaged_file_is_named_though_another_is_gone(edgewright_home: Path, tmp_path: Path) -> None:
    kept = _Kept(lambda: (_artifact(tmp_path / "a", b"first"), _artifact(tmp_path / "b", b"second")))
    damaged, gone = (artifact.path for artifact in kept.kept)
    damaged.write_bytes(b"f1rst")
    gone.unlink()

    made, said = kept.run()

    assert all(Store().holds(artifact) for artifact in made)
    assert f"{damaged}: not what 'Making files' made; computed anew" in [event.title for event in said]


@pytest.mark.parametrize(("error", "tries"), [(TransientError("net"), 3), (ConversionError("graph"), 1)])
def test_only_transient_errors_are_retried(error: Exception, tries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.caching._RETRY_DELAYS_S", [0.0, 0.0])
    calls: list[int] = []

    @step("Failing")
    def fail() -> None:
        calls.append(1)
        raise error

    @flow
    def failing() -> None:
        run(fail)

    with pytest.raises(type(error)):
        failing()
    assert len(calls) == tries


class _Made(BaseModel):
    number: int
    files: list[Artifact]


def test_artifacts_are_found_however_deep(tmp_path: Path, edgewright_home: Path) -> None:
    artifact, inner = (_artifact(tmp_path / name, name.encode()) for name in ("x", "inner"))
    assert list(artifacts_in(({"no": 1}, [artifact], _Made(number=1, files=[inner])))) == [artifact, inner]
