"""What a pipeline run leaves for experiment tracking: plain values, written to disk first and uploaded after.

A tracking server that is down therefore loses nothing: the record waits under ``.edgewright/tracking``.
"""

from pathlib import Path

from pydantic import Field

from edgewright.value import Value

__all__ = ["RunRecord", "TrackingRecord", "VersionRecord"]


class RunRecord(Value):
    """One run: a pipeline, a stage or a technique. Times are milliseconds since the epoch.

    ``series`` are figures over time: (milliseconds since the epoch, value) by name.
    """

    name: str
    started_ms: int
    ended_ms: int
    status: str = "FINISHED"
    params: dict[str, str] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    series: dict[str, tuple[tuple[int, float], ...]] = Field(default_factory=dict)
    tags: dict[str, str] = Field(default_factory=dict)
    artifacts: tuple[Path, ...] = ()
    children: tuple["RunRecord", ...] = ()


class VersionRecord(Value):
    """A bundle as a version of a registered model; ``champion`` once the deployment stage released it."""

    model_name: str
    bundle: Path
    tags: dict[str, str]
    champion: bool


class TrackingRecord(Value):
    """Everything one pipeline run tracks; ``id`` makes uploading it twice the same as once."""

    id: str
    experiment: str
    run: RunRecord
    version: VersionRecord | None = None
