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

from edgewright.errors import BudgetExceededError, EdgewrightError, TrackingUnavailableError
from edgewright.journal import Journal
from edgewright.measurement import ValidationReport
from edgewright.monitor import MonitoringPlan
from edgewright.profile import Platform, shipped_names
from edgewright.request import DEFAULT_RECIPE, DeploymentRequest, resolve
from edgewright.result import DeploymentResult, Tracking
from edgewright.store import home
from flows.deploy import deploy as deploy_stage
from flows.monitor import monitor as monitor_stage
from flows.optimize import optimize
from flows.package import package
from flows.validate import validate
from tasks.caching import run
from tasks.report import write_report
from tasks.tracking import keep_record, pending_records, tracking_uri, upload_record

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
        shapes: Sizes of an ONNX input whose axes are free, by its name: {"image": [1, 3, 224, 224]}.
        repository: Release repository: a folder or any fsspec URL; .edgewright/releases if empty.
        channel: Release channel.
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
    )
    journal = Journal(str(flow_run.id or uuid4()), request)
    watch = {
        "enable_performance_tracking": enable_performance_tracking,
        "enable_accuracy_monitoring": enable_accuracy_monitoring,
    }
    try:
        # The pipeline's own heartbeat tells a crash; a stage would wait up to a second for its thread to end.
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            _run_stages(journal, request, repository or str(home() / "releases"), channel, watch)
    except EdgewrightError as e:
        journal.error = e
    except Exception as e:
        get_run_logger().critical("a stage failed in a way that is not foreseen", exc_info=True)
        journal.error = e
    result = journal.result().model_copy(update={"tracking": _track(journal)})
    if result.status == "failed":
        return Failed(message=result.error, data=result)
    return result


def deploy(**parameters: Any) -> DeploymentResult:
    """Run the pipeline here and return its result, failed or not; parameters as of `edge_deployment`.

    Raises:
        InputError: a parameter that cannot be used; nothing was written.
    """
    state = edge_deployment(**parameters, return_state=True)
    found = state.result(raise_on_failure=False)
    if isinstance(found, DeploymentResult):
        return found
    raise found if isinstance(found, BaseException) else EdgewrightError(f"the flow ended without a result: {state}")


def _run_stages(
    journal: Journal, request: DeploymentRequest, repository: str, channel: str, watch: dict[str, bool]
) -> None:
    device, recipe = request.device, request.recipe
    with journal.stage("optimize"):
        journal.optimization = made = optimize(request.model, request.data, device, recipe)
    with journal.stage("validate"):
        journal.report = report = validate(made, device, request.budget, recipe.max_accuracy_drop_percent)
    _gate(report)
    with journal.stage("package"):
        plan = MonitoringPlan.model_validate(watch).with_limits_of(report)
        journal.bundle = bundle = package(made, report, device, plan)
    with journal.stage("deploy"):
        journal.release = release = deploy_stage(bundle, repository, channel)
    with journal.stage("monitor"):
        journal.health = monitor_stage(release.repository, release.channel)


def _gate(report: ValidationReport) -> None:
    if not report.passed:
        raise BudgetExceededError("; ".join(line.sentence() for line in report.violations))


def _track(journal: Journal) -> Tracking:
    """Keep the record, then send it and whatever an earlier run could not; a server that is down fails nothing."""
    files = run(write_report, journal.result()) if journal.report else ()
    record = keep_record(journal.record(tuple(files)))
    sent: dict[Path, str] = {}
    try:
        for path in pending_records():
            sent[path] = run(upload_record, path)
    except TrackingUnavailableError as e:
        get_run_logger().warning("%s; the record waits in %s and the next run sends it", e, record)
    run_id = sent.get(record)
    return Tracking(uri=tracking_uri(), run_id=run_id, pending=None if run_id else str(record))
