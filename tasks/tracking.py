"""Experiment tracking: a record on disk first, then MLflow; what could not be sent is sent by a later run.

Sources: MLflow 3 client API (`MlflowClient.log_batch`, `create_model_version`, registered model aliases).
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from edgewright.errors import TrackingUnavailableError
from edgewright.locks import locked
from edgewright.pipeline.record import RunRecord, TrackingRecord, VersionRecord
from edgewright.plain_text import without_password
from edgewright.progress import progress
from edgewright.store import home, replace_file
from edgewright.variables import default_variables, variable
from mlflow_server.serve import lock_of, renew_database
from tasks.caching import step

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = [
    "answering",
    "configure_client",
    "keep_record",
    "pending_records",
    "tracking_uri",
    "upload_record",
    "upload_waiting",
]

_RECORD_TAG = "edgewright.record"
_COMPLETE_TAG = "edgewright.complete"
_RELEASE_TAGS = {"line", "release_version"}


def tracking_uri() -> str:
    """``MLFLOW_TRACKING_URI``, else SQLite under ``.edgewright/mlflow``."""
    return variable("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow' / 'mlflow.db'}"


def keep_record(record: TrackingRecord) -> Path:
    """Write a record where `pending_records` finds it; called before any server is asked."""
    path = home() / "tracking" / f"{record.id}.json"
    replace_file(path, record.model_dump_json(indent=2).encode())
    return path


def pending_records() -> list[Path]:
    """Records that no tracking server has taken yet, oldest first."""
    records = []
    for path in (home() / "tracking").glob("*.json"):
        with suppress(FileNotFoundError):  # another run has sent it meanwhile
            records.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(records)]


@step("Recording the run in MLflow")
def upload_record(path: Path) -> str:
    """Send one record to MLflow and remove it here; returns the id of the parent run.

    Sending a record twice is the same as once: a complete run with its id is found, an incomplete one replaced. Where
    another run of this home is sending it, or has, that one's is returned.

    Raises:
        TrackingUnavailableError: the server did not answer; the record stays where it is.
    """
    # Two runs of one home may find the same record at the same time.
    with locked(_lock_of(path)):
        return _sent(path)


@step("Recording earlier runs in MLflow")
def upload_waiting(before: Path) -> list[str]:
    """Send the records that are older than this one, but for those that another run sends now.

    One that the server does not take stays where it is, and keeps none of the others.

    Raises:
        TrackingUnavailableError: the server did not answer; what was not sent stays where it is.
    """
    sent = []
    records = pending_records()
    # Older ones only: this run's own record is sent by `upload_record`, which returns its id.
    for path in records[: records.index(before)] if before in records else ():
        with locked(_lock_of(path), wait=False) as free:
            if not free or not path.exists():
                continue
            try:
                sent.append(_sent(path))
            # A record that cannot be read would keep all those after it from being sent.
            except ValidationError as e:
                _set_aside(path, e)
            except TrackingUnavailableError as e:
                _check_answers()
                progress.note(f"{path}: the record of an earlier run was not sent: {e}")
    return sent


def _check_answers() -> None:
    """Tell a record that the server does not take from a server that takes none.

    Raises:
        TrackingUnavailableError: the server does not answer.
    """
    with _mlflow_for_one() as client:
        client.search_experiments(max_results=1)


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.stem}.lock")


def _sent(path: Path) -> str:
    """Send a record whose lock is held."""
    configure_client()
    with _mlflow_for_one() as client:
        # Under the lock: another run may have sent it while this one waited.
        if path.exists():
            run_id = _uploaded(client, TrackingRecord.model_validate_json(path.read_bytes()))
            # Only when it is complete there: until then a kill leaves a record that is sent anew.
            path.unlink()
        else:
            run_id = _run_of(client, path.stem)
    _lock_of(path).unlink(missing_ok=True)  # whoever waits for it finds the record gone
    return run_id


def _set_aside(path: Path, error: ValidationError) -> None:
    aside = path.rename(path.with_suffix(".unreadable"))
    progress.note(f"{aside}: the record of a run cannot be read, set aside: {str(error).splitlines()[0]}")


@contextmanager
def _mlflow_for_one() -> "Iterator[MlflowClient]":
    """A client; of an embedded database only one run at a time has one: MLflow makes its tables at the first use.

    Raises:
        TrackingUnavailableError: whatever fails between here and the server.
    """
    from mlflow import MlflowClient

    uri = tracking_uri()
    with answering("did not take the run"), ExitStack() as stack:
        if uri.startswith("sqlite:///"):
            database = Path(uri.removeprefix("sqlite:///"))
            stack.enter_context(locked(lock_of(database)))
            # Before MLflow opens it: a damaged database is set aside, and its tables are made anew.
            renew_database(database)
        yield MlflowClient(tracking_uri=uri)


@contextmanager
def answering(failed: str) -> Iterator[None]:
    """What MLflow and those below it raise in this block is one line: the tracking server ``failed``, and why.

    Raises:
        TrackingUnavailableError: that line.
    """
    import requests
    from alembic.util.exc import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        _connect_once()
        yield
    # Of the tables: a database that another program, or a newer MLflow, has made.
    except (MlflowException, requests.RequestException, SQLAlchemyError, CommandError, OSError) as e:
        at = without_password(tracking_uri())
        raise TrackingUnavailableError(f"the tracking server at {at} {failed}: {_first_line(e)}") from e


def _connect_once() -> None:
    """Of a database that is away MLflow would tell after ten tries, in a minute and a half."""
    from mlflow.store.db.db_types import DATABASE_ENGINES
    from sqlalchemy import NullPool, create_engine

    engine = tracking_uri().partition(":")[0].partition("+")[0]
    if engine in DATABASE_ENGINES and engine != "sqlite":
        create_engine(tracking_uri(), poolclass=NullPool).connect().close()


def configure_client() -> None:
    """Before MLflow is imported: answer within seconds whether its server is there, keep no connection."""
    default_variables(
        {
            # Its own defaults would try a server that is down for minutes (5 times with growing pauses).
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
            # An embedded database that is set aside must not be written to by a connection that was kept.
            "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # Its warnings repeat, in many lines, what an error tells once.
            "MLFLOW_LOGGING_LEVEL": "ERROR",
        }
    )


def _uploaded(client: "MlflowClient", record: TrackingRecord) -> str:
    experiment = _experiment_id(client, record.experiment, tracking_uri())
    parent = _complete_run(client, experiment, record.id)
    if parent is None:
        parent = _log(client, experiment, record.run, parent=None, record_id=record.id)
    if record.version is not None:
        _register(client, record.version, parent)
    # Last: a run without it is one that was cut off, and is replaced.
    client.set_tag(parent, _COMPLETE_TAG, "true")
    return parent


def _run_of(client: "MlflowClient", record_id: str) -> str:
    """The run that another run of this home sent this record as."""
    experiment_ids = [str(experiment.experiment_id) for experiment in client.search_experiments()]
    for experiment_id in experiment_ids:
        if run_id := _complete_run(client, experiment_id, record_id):
            return run_id
    raise TrackingUnavailableError(f"record {record_id} is not here, nor at {without_password(tracking_uri())}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0][:300]


def _experiment_id(client: "MlflowClient", name: str, uri: str) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return str(experiment.experiment_id)
    # Without a server there is nobody to proxy artifacts: name the folder, or they land in the working folder.
    location = None if uri.startswith("http") else (home() / "mlflow" / "artifacts" / name).as_uri()
    return str(client.create_experiment(name, artifact_location=location))


def _complete_run(client: "MlflowClient", experiment: str, record_id: str) -> str | None:
    runs = client.search_runs([experiment], filter_string=f"tags.`{_RECORD_TAG}` = '{record_id}'")
    for run in runs:
        if run.data.tags.get(_COMPLETE_TAG) == "true":
            return str(run.info.run_id)
        # Cut off while it was sent: its record is still here.
        client.delete_run(run.info.run_id)
    return None


def _log(
    client: "MlflowClient", experiment: str, record: RunRecord, *, parent: str | None, record_id: str | None = None
) -> str:
    from mlflow.entities import Metric, Param, RunTag

    tags = dict(record.tags)
    if parent is not None:
        tags["mlflow.parentRunId"] = parent
    if record_id is not None:
        tags[_RECORD_TAG] = record_id
    created = client.create_run(experiment, start_time=record.started_ms, tags=tags, run_name=record.name)
    run_id = str(created.info.run_id)
    client.log_batch(
        run_id,
        metrics=[
            *(Metric(name, value, record.ended_ms, 0) for name, value in record.metrics.items()),
            *(
                Metric(name, value, at_ms, i)
                for name, points in record.series.items()
                for i, (at_ms, value) in enumerate(points)
            ),
        ],  # the client sends them in batches of what a server takes
        params=[Param(name, value[:6000]) for name, value in record.params.items()],  # MLflow's limit
        tags=[RunTag("edgewright.logged_ms", str(int(time.time() * 1000)))],
    )
    for path in record.artifacts:
        if path.is_dir():
            client.log_artifacts(run_id, str(path), path.name)
        else:
            client.log_artifact(run_id, str(path))
    for child in record.children:
        _log(client, experiment, child, parent=run_id)
    client.set_terminated(run_id, status=record.status, end_time=record.ended_ms)
    return run_id


def _register(client: "MlflowClient", record: VersionRecord, run_id: str) -> None:
    """Make the bundle a version, once per bundle digest, and move the aliases."""
    from mlflow.exceptions import MlflowException

    name = record.model_name
    try:
        client.get_registered_model(name)
    except MlflowException as e:
        if e.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_registered_model(name)
    # A bundle that is released again is the same version; its release is in the tags. Asked for by its digest: the
    # filter's grammar knows no way to write a quotation mark, which a name may hold.
    same = client.search_model_versions(f"tags.bundle_digest = '{record.tags['bundle_digest']}'")
    version = next((v for v in same if v.name == name), None)
    if version is None:
        version = client.create_model_version(
            name, f"runs:/{run_id}/{record.bundle.name}", run_id=run_id, tags=record.tags
        )
    client.set_registered_model_alias(name, "candidate", version.version)
    if record.champion:
        _crown(client, name, str(version.version), record.tags)


def _crown(client: "MlflowClient", name: str, version: str, tags: Mapping[str, str]) -> None:
    """Make the version champion, with its newest release as tags: one bundle may be released again."""
    alias = client.get_registered_model(name).aliases.get("champion")
    previous = None if alias is None else str(alias)  # an embedded database gives a number, a server text
    if previous is not None:
        reigning = client.get_model_version(name, previous).tags
        if reigning.get("line") == tags.get("line") and _release_of(reigning) > _release_of(tags):
            return  # runs end in another order than they release
    for tag in _RELEASE_TAGS & tags.keys():
        client.set_model_version_tag(name, version, tag, tags[tag])
    if previous == version:
        return
    if previous is not None:
        client.set_model_version_tag(name, version, "previous_champion", previous)
    client.set_registered_model_alias(name, "champion", version)


def _release_of(tags: Mapping[str, str]) -> int:
    return int(tags.get("release_version", 0))
