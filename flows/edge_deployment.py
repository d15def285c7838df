"""The pipeline: optimization, hardware validation, packaging, deployment, monitoring.

In a checkout: ``edgewright deploy MODEL --data DATA --platform android``; in the Prefect UI: deployment ``deploy``.
"""

from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Failed
from pydantic import Field

from edgewright.errors import BudgetExceededError, EdgewrightError, PoorSourceError, TrackingUnavailableError
from edgewright.journal import Journal
from edgewright.measurement import ValidationReport
from edgewright.monitor import MonitoringPlan
from edgewright.profile import Platform, shipped_names
from edgewright.progress import progress
from edgewright.request import DEFAULT_RECIPE, resolve
from edgewright.result import DeploymentResult, Tracking
from edgewright.shortage import shortage_of
from edgewright.store import Store, home
from flows.deploy import deploy as deploy_stage
from flows.monitor import monitor as monitor_stage
from flows.optimize import optimize
from flows.package import package
from flows.validate import validate
from tasks.caching import run
from tasks.report import PAGE_NAME, write_report
from tasks.tracking import keep_record, tracking_uri, upload_record, upload_waiting

__all__ = ["deploy", "edge_deployment"]

Limit = Annotated[float | None, Field(gt=0)]
# The UI's form offers the shipped names; a call from Python may give the path of a .yaml as well.
RecipeName = Annotated[str, Field(json_schema_extra={"enum": list[Any](shipped_names("recipe"))})]
DeviceName = Annotated[str, Field(json_schema_extra={"enum": list[Any](shipped_names("device"))})]


@flow(
    name="edge-deployment",
    description="One trained model to a verified, released bundle on one device.",
    persist_result=True,
    result_serializer="json",
)
def edge_deployment(
    model: Path,
    data: Path,
    target: str | None = None,
    platform: Platform | None = None,
    device: DeviceName | None = None,
    recipe: RecipeName = DEFAULT_RECIPE,
    max_latency_ms: Limit = None,
    max_memory_mb: Limit = None,
    max_size_mb: Limit = None,
    max_accuracy_drop: Limit = None,
    shapes: dict[str, list[int]] | None = None,
    repository: str | None = None,
    channel: str = "stable",
    name: str | None = None,
    allow_poor_source: bool = False,
    enable_performance_tracking: bool = True,
    enable_accuracy_monitoring: bool = True,
) -> DeploymentResult | State[DeploymentResult]:
    """Run the five stages; a failing one ends the run, and the state carries the result up to there.

    Args:
        model: A trained model: .pt2, .pkl, .joblib, .skops, .onnx, .keras, .h5, SavedModel, or a factory's .yaml.
        data: Real data: .csv, .parquet, .npz, or a .yaml that describes one.
        target: The column with the true answers.
        platform: Deploy to that platform's generic device.
        device: A device profile instead, from profiles/devices.
        recipe: What is done to the model, from profiles/recipes.
        max_latency_ms: Limit of the p95 latency, milliseconds.
        max_memory_mb: Limit of the memory that loading and running the model adds, MB.
        max_size_mb: Limit of the model file on the device, MB.
        max_accuracy_drop: Limit of the loss against the source model, percentage points.
        shapes: Sizes of an input whose axes are free, by its name: {"image": [1, 3, 224, 224]}.
        repository: Release repository: a folder or any fsspec URL; .edgewright/releases if empty.
        channel: Release channel. Name, platform and channel make a line of versions, which devices follow.
        name: What the model is called; the file's name without its ending if empty.
        allow_poor_source: Release a model whose own answers are barely better than chance, too.
        enable_performance_tracking: Devices record latency and memory.
        enable_accuracy_monitoring: Devices record right and wrong answers where they are known.
    """
    request = resolve(
        model=model,
        data=data,
        target=target,
        platform=platform,
        device=device,
        recipe=recipe,
        max_latency_ms=max_latency_ms,
        max_memory_mb=max_memory_mb,
        max_size_mb=max_size_mb,
        max_accuracy_drop=max_accuracy_drop,
        shapes=shapes,
        name=name,
        channel=channel,
    )
    journal = Journal(str(flow_run.id or uuid4()), request)
    watch = {
        "enable_performance_tracking": enable_performance_tracking,
        "enable_accuracy_monitoring": enable_accuracy_monitoring,
    }
    with Store().in_use():
        _attempt(journal, repository or str(home() / "releases"), watch, allow_poor_source=allow_poor_source)
        tracking = _tracked(journal)
        for note in journal.notes:
            get_run_logger().warning(note)
        result = journal.result().model_copy(update={"tracking": tracking})
    if result.status == "failed":
        return Failed(message=result.error, data=result)
    return result


def deploy(**parameters: Any) -> DeploymentResult:
    """Run the pipeline here and return its result, failed or not; parameters as of `edge_deployment`.

    Raises:
        InputError: a parameter that cannot be used; nothing was written.
        EdgewrightError: the orchestrator could not go on, for want of room on its disk as a rule.
    """
    try:
        state = edge_deployment(**parameters, return_state=True)
    except Exception as e:
        raise _foreseen(e) or e from e
    found = state.result(raise_on_failure=False)
    if isinstance(found, DeploymentResult):
        return found
    raise found if isinstance(found, BaseException) else EdgewrightError(f"the flow ended without a result: {state}")


def _attempt(journal: Journal, repository: str, watch: dict[str, bool], *, allow_poor_source: bool) -> None:
    """Run the stages; the journal keeps what ended them, and what was told."""
    try:
        # The pipeline's own heartbeat tells a crash; a stage would wait up to a second for its thread to end.
        quiet = temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})
        with quiet, progress.listening(journal.hear):
            _run_stages(journal, repository, watch, allow_poor_source=allow_poor_source)
    except Exception as e:
        foreseen = _foreseen(e)
        journal.error = foreseen or e
        if foreseen is None:
            get_run_logger().critical("a stage failed in a way that is not foreseen", exc_info=True)


def _foreseen(error: Exception) -> EdgewrightError | None:
    if isinstance(error, EdgewrightError):
        return error
    said = shortage_of(error)
    return EdgewrightError(said) if said else None


def _run_stages(journal: Journal, repository: str, watch: dict[str, bool], *, allow_poor_source: bool) -> None:
    request = journal.request
    device, recipe = request.device, request.recipe
    with journal.stage("optimize"):
        journal.optimization = made = optimize(
            request.model, request.data, device, recipe, request.name, request.budget.max_size_mb
        )
    with journal.stage("validate"):
        journal.report = report = validate(made, device, request.budget, recipe.max_accuracy_drop_percent)
    _gate(report, allow_poor_source=allow_poor_source)
    with journal.stage("package"):
        plan = MonitoringPlan.model_validate(watch).with_limits_of(report)
        journal.bundle = bundle = package(made, report, device, plan)
    with journal.stage("deploy"):
        journal.release = release = deploy_stage(bundle, repository, request.channel)
    with journal.stage("monitor"):
        journal.health = monitor_stage(
            release.repository, release.channel, model=release.model, platform=Platform(release.platform)
        )


def _gate(report: ValidationReport, *, allow_poor_source: bool) -> None:
    if not report.passed:
        raise BudgetExceededError("; ".join(line.sentence() for line in report.violations))
    if report.warnings and not allow_poor_source:
        cure = "--allow-poor-source (allow_poor_source in the UI's form) releases it all the same"
        raise PoorSourceError("; ".join((*report.warnings, cure)))


def _tracked(journal: Journal) -> Tracking | None:
    """Whatever becomes of the record, what was deployed is told."""
    try:
        with progress.listening(journal.hear):
            return _track(journal)
    except Exception as e:
        foreseen = _foreseen(e)
        if foreseen is None:
            get_run_logger().critical("the run's record failed in a way that is not foreseen", exc_info=True)
        said = foreseen or f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"
        journal.notes.append(f"the run is not in MLflow: {said}")
        return None


def _track(journal: Journal) -> Tracking:
    """Keep the record, then send it and whatever an earlier run could not; a server that is down fails nothing."""
    files = run(write_report, journal.result()) if journal.report else []
    journal.page = next((file for file in files if file.name == PAGE_NAME), None)
    record = keep_record(journal.record(tuple(files)))
    run_id = None
    try:
        run(upload_waiting, record)
        run_id = run(upload_record, record)
    except TrackingUnavailableError as e:
        get_run_logger().warning("%s; the record waits in %s and the next run sends it", e, record)
    return Tracking(uri=tracking_uri(), run_id=run_id, pending=None if run_id else str(record))
