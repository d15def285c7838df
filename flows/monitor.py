"""Stage five: what devices report, against the figures measured before release."""

import re
import time
from pathlib import Path
from uuid import uuid4

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.runtime import flow_run

from edgewright.errors import TrackingUnavailableError
from edgewright.monitor import Health
from edgewright.pipeline.record import RunRecord, TrackingRecord
from edgewright.profile import Platform
from edgewright.release import current_baseline
from edgewright.store import home
from tasks.caching import run
from tasks.monitor import check_release
from tasks.tracking import keep_record, upload_record

__all__ = ["monitor"]

EXPERIMENT = "edgewright-monitoring"


@flow(name="monitor", description="Device telemetry against the figures of validation.", result_serializer="json")
def monitor(
    repository: str | None = None,
    channel: str = "stable",
    telemetry: Path | None = None,
    database: str | None = None,
    model: str | None = None,
    platform: Platform | None = None,
) -> Health:
    """Compute windows, find issues, show them in Prefect, and log the windows to MLflow where there are any.

    Args:
        repository: Release repository: a folder or any fsspec URL; .edgewright/releases if empty.
        channel: Channel whose current release is watched.
        telemetry: Folder of JSON-lines files that devices sent; .edgewright/telemetry if empty.
        database: SQLAlchemy URL of the database of `edgewright cloud`, read instead of the folder.
        model: Name of the model, where the channel has several.
        platform: Its platform, where the channel has several.
    """
    baseline = current_baseline(repository or str(home() / "releases"), channel, model=model, platform=platform)
    line = baseline.release.line
    health = run(check_release, baseline, telemetry or home() / "telemetry", database)
    if health.issues:
        rows = [issue.model_dump(mode="json") for issue in health.issues]
        # Prefect's keys take neither dots nor underscores.
        create_table_artifact(key=f"issues-{re.sub('[._]', '-', line)}", table=rows, description="Issues in the field")
        get_run_logger().warning("%d issues of %s: %s", len(rows), line, health.issues[0].message)
    # A line without telemetry leaves no empty run in MLflow.
    if health.windows:
        _track(health, baseline.release.version, line)
    return health


def _track(health: Health, version: int, line: str) -> None:
    now = int(time.time() * 1000)
    figures = (
        "latency_p50_ms",
        "latency_p95_ms",
        "latency_p99_ms",
        "memory_mb",
        "cpu_percent",
        "accuracy",
        "confidence",
    )
    series = {
        name: tuple((w.start_s * 1000, float(getattr(w, name))) for w in health.windows if getattr(w, name) is not None)
        for name in figures
    }
    run_record = RunRecord(
        name=f"{line} version {version}",
        started_ms=now,
        ended_ms=now,
        params={"line": line, "version": str(version)},
        metrics={"issues": len(health.issues), "records": health.records, "malformed": health.malformed},
        series={name: points for name, points in series.items() if points},
        tags={issue.kind: issue.message for issue in health.issues},
    )
    record = TrackingRecord(id=str(flow_run.id or uuid4()), experiment=EXPERIMENT, run=run_record)
    try:
        run(upload_record, keep_record(record))
    except TrackingUnavailableError as e:
        get_run_logger().warning("%s; the next run sends the record", e)
