import socket
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from mlflow import MlflowClient

from edgewright.errors import TrackingUnavailableError
from edgewright.locks import locked
from edgewright.pipeline.record import RunRecord, TrackingRecord, VersionRecord
from edgewright.progress import Announcement, progress
from tasks.tracking import (
    _complete_run,
    _crown,
    _lock_of,
    keep_record,
    pending_records,
    tracking_uri,
    upload_record,
    upload_waiting,
)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning:mlflow")


def _record(tmp_path: Path, record_id: str, digest: str, *, champion: bool) -> TrackingRecord:
    bundle = tmp_path / digest / "bundle"
    bundle.mkdir(parents=True, exist_ok=True)
    (bundle / "manifest.json").write_text(digest)
    stage = RunRecord(name="validate", started_ms=1, ended_ms=2, metrics={"latency_p50_ms": 0.5})
    run = RunRecord(
        name="digits",
        started_ms=1,
        ended_ms=3,
        params={"recipe": "int8"},
        metrics={"size_bytes": 10.0},
        tags={"platform": "android"},
        artifacts=(bundle,),
        children=(stage,),
    )
    version = VersionRecord(
        model_name="digits-android", bundle=bundle, tags={"bundle_digest": digest}, champion=champion
    )
    return TrackingRecord(id=record_id, experiment="edgewright", run=run, version=version)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edgewright_home: Path) -> MlflowClient:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return MlflowClient(tracking_uri=tracking_uri())


def test_upload_nests_runs_and_moves_aliases(store: MlflowClient, tmp_path: Path) -> None:
    first = upload_record.fn(keep_record(_record(tmp_path, "one", "aa", champion=True)))
    upload_record.fn(keep_record(_record(tmp_path, "two", "bb", champion=False)))
    upload_record.fn(keep_record(_record(tmp_path, "three", "bb", champion=True)))
    assert pending_records() == []
    experiment = store.get_experiment_by_name("edgewright")
    nested = store.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{first}'")
    assert [run.data.metrics for run in nested] == [{"latency_p50_ms": 0.5}]
    assert store.get_run(first).data.params == {"recipe": "int8"}
    # one version a bundle, not a run; the alias says what is released, a tag what it replaced
    versions = {str(v.version): v for v in store.search_model_versions("name = 'digits-android'")}
    assert len(versions) == 2
    champion = store.get_model_version_by_alias("digits-android", "champion")
    assert champion.tags["bundle_digest"] == "bb"
    assert versions[champion.tags["previous_champion"]].tags["bundle_digest"] == "aa"
    upload_record.fn(keep_record(_record(tmp_path, "four", "bb", champion=True)))
    assert store.get_model_version_by_alias("digits-android", "champion").tags == champion.tags
    assert [f.path for f in store.list_artifacts(first, "bundle")] == ["bundle/manifest.json"]


def test_figure_that_is_infinite_or_no_number_is_sent_like_any_other(store: MlflowClient, tmp_path: Path) -> None:
    record = _record(tmp_path, "one", "aa", champion=False)
    figures = {"low": float("-inf"), "high": float("nan"), "value": 0.5}
    path = keep_record(record.model_copy(update={"run": record.run.model_copy(update={"metrics": figures})}))
    sent = store.get_run(upload_record.fn(path)).data.metrics
    assert pending_records() == []
    assert sent["value"] == 0.5
    assert set(sent) == set(figures)


def test_uploading_twice_is_the_same_as_once(store: MlflowClient, tmp_path: Path) -> None:
    record = _record(tmp_path, "same", "cc", champion=False)
    assert upload_record.fn(keep_record(record)) == upload_record.fn(keep_record(record))


def test_a_server_that_is_down_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edgewright_home: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    path = keep_record(_record(tmp_path, "later", "dd", champion=True))
    with pytest.raises(TrackingUnavailableError, match="did not take the run"):
        upload_record.fn(path)
    assert pending_records() == [path]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'back.db'}")
    assert upload_record.fn(path)
    assert pending_records() == []


def test_runs_that_send_the_same_records_at_once_send_each_once(store: MlflowClient, tmp_path: Path) -> None:
    paths = [keep_record(_record(tmp_path, f"r{n}", f"d{n}", champion=True)) for n in range(3)]

    def send(own: Path) -> str:
        upload_waiting.fn(own)
        return upload_record.fn(own)

    with ThreadPoolExecutor(6) as pool:
        ids = list(pool.map(send, [*paths, *paths]))

    assert ids[:3] == ids[3:]
    assert len(set(ids)) == 3
    (experiment,) = [e for e in store.search_experiments() if e.name == "edgewright"]
    parents = [r for r in store.search_runs([experiment.experiment_id]) if "mlflow.parentRunId" not in r.data.tags]
    assert {run.info.run_id for run in parents} == set(ids)
    assert pending_records() == []


def test_record_that_another_run_sends_now_is_left_to_it(store: MlflowClient, tmp_path: Path) -> None:
    busy, free, own = (keep_record(_record(tmp_path, name, name, champion=False)) for name in ("busy", "free", "own"))

    with locked(_lock_of(busy)):
        assert len(upload_waiting.fn(own)) == 1

    assert pending_records() == [busy, own]
    assert not free.exists()


def test_record_that_cannot_be_read_is_set_aside_and_stops_no_other(store: MlflowClient, tmp_path: Path) -> None:
    bad = keep_record(_record(tmp_path, "bad", "aa", champion=False))
    bad.write_bytes(bad.read_bytes()[:-40])
    good, own = (keep_record(_record(tmp_path, name, "bb", champion=False)) for name in ("good", "own"))
    said: list[Announcement] = []

    with progress.listening(said.append):
        assert len(upload_waiting.fn(own)) == 1

    assert pending_records() == [own]
    assert not good.exists()
    assert bad.with_suffix(".unreadable").exists()
    assert "cannot be read, set aside" in said[0].title


def test_record_that_the_server_does_not_take_stays_and_stops_no_other(store: MlflowClient, tmp_path: Path) -> None:
    record = _record(tmp_path, "bad", "aa", champion=False)
    unnameable = record.version.model_copy(update={"model_name": "a/b"})
    bad = keep_record(record.model_copy(update={"version": unnameable}))
    good, own = (keep_record(_record(tmp_path, name, "bb", champion=False)) for name in ("good", "own"))
    said: list[Announcement] = []

    with progress.listening(said.append):
        assert len(upload_waiting.fn(own)) == 1

    assert pending_records() == [bad, own]
    assert not good.exists()
    assert "the record of an earlier run was not sent" in said[0].title
    assert "a/b" in said[0].title


def test_earlier_records_wait_where_no_server_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edgewright_home: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    waiting = [keep_record(_record(tmp_path, name, "aa", champion=False)) for name in ("one", "two", "own")]

    with pytest.raises(TrackingUnavailableError):
        upload_waiting.fn(waiting[-1])

    assert pending_records() == waiting


@pytest.mark.parametrize("name", ["it's", 'both "of" it\'s', "back\\slash"])
def test_model_of_any_name_is_one_version_a_bundle(store: MlflowClient, tmp_path: Path, name: str) -> None:
    for number, digest in enumerate(["aa", "bb", "bb"]):
        record = _record(tmp_path, str(number), digest, champion=True)
        version = record.version.model_copy(update={"model_name": name})
        upload_record.fn(keep_record(record.model_copy(update={"version": version})))

    assert pending_records() == []
    digests = {v.version: v.tags["bundle_digest"] for v in store.search_model_versions() if v.name == name}
    assert sorted(digests.values()) == ["aa", "bb"]


def test_series_is_sent_to_its_last_point(store: MlflowClient, tmp_path: Path) -> None:
    record = _record(tmp_path, "long", "aa", champion=False)
    series = {name: tuple((at, 0.5) for at in range(900)) for name in ("accuracy", "latency")}
    path = keep_record(record.model_copy(update={"run": record.run.model_copy(update={"series": series})}))

    run_id = upload_record.fn(path)

    assert [len(store.get_metric_history(run_id, name)) for name in series] == [900, 900]


def test_record_that_is_sent_leaves_neither_file_nor_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edgewright_home: Path
) -> None:
    monkeypatch.setattr("tasks.tracking._mlflow_for_one", nullcontext)
    monkeypatch.setattr("tasks.tracking._uploaded", lambda client, record: f"run of {record.id}")
    path = keep_record(_record(tmp_path, "sent", "aa", champion=False))

    assert upload_record.fn(path) == "run of sent"

    assert list(path.parent.iterdir()) == []


class _Mlflow:
    """Runs and one registered model in memory, with what `_complete_run` and `_crown` ask of a client."""

    def __init__(self, number: type[int] | type[str] = str) -> None:
        self.number = number
        self.runs: dict[str, dict[str, str]] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self.aliases: dict[str, str] = {}

    def search_runs(self, experiments: list[str], filter_string: str) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(info=SimpleNamespace(run_id=run_id), data=SimpleNamespace(tags=tags))
            for run_id, tags in self.runs.items()
        ]

    def delete_run(self, run_id: str) -> None:
        del self.runs[run_id]

    def get_registered_model(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(aliases={alias: self.number(version) for alias, version in self.aliases.items()})

    def get_model_version(self, name: str, version: str) -> SimpleNamespace:
        return SimpleNamespace(tags=dict(self.versions[version]))

    def set_model_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        self.versions[version][key] = value

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        self.aliases[alias] = version

    def release(self, version: str, release: int, line: str = "stable") -> tuple[str, str]:
        """Record that a version was released; the champion after that, and its release."""
        tags = {"line": line, "release_version": str(release)}
        self.versions.setdefault(version, dict(tags))
        _crown(cast(MlflowClient, self), "digits-android", version, tags)
        champion = self.aliases["champion"]
        return champion, self.versions[champion]["release_version"]


def test_run_that_was_begun_and_not_completed_is_deleted() -> None:
    client = _Mlflow()
    client.runs = {"begun": {}, "complete": {"edgewright.complete": "true"}}
    assert _complete_run(cast(MlflowClient, client), "0", "record") == "complete"
    assert list(client.runs) == ["complete"]


def test_run_that_ends_late_does_not_dethrone_a_newer_release() -> None:
    client = _Mlflow()
    assert client.release("1", 10) == ("1", "10")
    assert client.release("2", 9) == ("1", "10")
    assert client.release("3", 11) == ("3", "11")
    assert client.release("4", 1, line="beta") == ("4", "1")


@pytest.mark.parametrize("number", [int, str], ids=["embedded database", "server"])
def test_bundle_that_is_released_again_is_champion_of_its_newest_release(number: type[int] | type[str]) -> None:
    client = _Mlflow(number)
    client.release("1", 1)
    assert client.release("1", 3) == ("1", "3")
    assert "previous_champion" not in client.versions["1"]
    assert client.release("2", 2) == ("1", "3")
    client.release("2", 4)
    assert client.release("1", 5) == ("1", "5")
    assert client.versions["1"]["previous_champion"] == "2"


def test_damaged_database_is_set_aside_by_one_of_many_runs_and_takes_no_record_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edgewright_home: Path
) -> None:
    database = tmp_path / "mlflow.db"
    database.write_bytes(damaged := b"no database at all" * 1000)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    paths = [keep_record(_record(tmp_path, f"r{n}", f"d{n}", champion=False)) for n in range(3)]
    said: list[Announcement] = []

    with progress.listening(said.append), ThreadPoolExecutor(3) as pool:
        ids = list(pool.map(upload_record.fn, paths))

    assert [event.title.count("set aside as mlflow.db.damaged") for event in said if event.note] == [1]
    assert [p.read_bytes() for p in tmp_path.glob("mlflow.db.damaged*")] == [damaged]
    found = MlflowClient(tracking_uri=tracking_uri())
    assert [found.get_run(run_id).data.tags["edgewright.record"] for run_id in ids] == ["r0", "r1", "r2"]
    assert pending_records() == []


def test_record_waits_where_the_database_is_another_program_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edgewright_home: Path
) -> None:
    """Prefect's, for one, has the version of its tables in a table of the same name."""
    database = tmp_path / "other.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        connection.execute("INSERT INTO alembic_version VALUES ('d4a7e1c93f52')")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    path = keep_record(_record(tmp_path, "one", "aa", champion=False))

    with pytest.raises(TrackingUnavailableError, match=r"did not take the run: Can't locate revision .*d4a7e1c93f52"):
        upload_record.fn(path)
    assert pending_records() == [path]


def test_record_waits_where_the_database_is_damaged_under_a_process_that_has_used_it(
    store: MlflowClient, tmp_path: Path
) -> None:
    """MLflow makes its tables once a process; the next one sends the record."""
    upload_record.fn(keep_record(_record(tmp_path, "sent", "aa", champion=False)))
    database = tmp_path / "mlflow.db"
    content = database.read_bytes()
    database.write_bytes(damaged := content[: len(content) // 2])
    path = keep_record(_record(tmp_path, "later", "bb", champion=False))

    with pytest.raises(TrackingUnavailableError, match="did not take the run"):
        upload_record.fn(path)

    assert pending_records() == [path]
    assert (tmp_path / "mlflow.db.damaged").read_bytes() == damaged
