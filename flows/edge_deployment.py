"""The pipeline: optimization, hardware validation, packaging, deployment, monitoring.

In a checkout: ``edgewright deploy MODEL --data DATA --platform android``; in the Prefect UI: deployment ``deploy``.
"""

from typing import Any, cast
from uuid import uuid4

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Failed

from edgewright.errors import BudgetExceededError, EdgewrightError, PoorSourceError, TrackingUnavailableError
from edgewright.measurement import ValidationReport
from edgewright.pipeline.journal import Journal
from edgewright.pipeline.parameters import DeploymentParameters
from edgewright.pipeline.request import DeploymentRequest, resolve
from edgewright.pipeline.result import DeploymentResult, Optimization, Tracking
from edgewright.pipeline.signature import signature_of_fields
from edgewright.profile import Platform
from edgewright.progress import progress
from edgewright.store import Store, home
from flows.deploy import deploy as deploy_stage
from flows.monitor import monitor as monitor_stage
from flows.optimize import optimize
from flows.outages import foreseen
from flows.package import package
from flows.validate import validate
from tasks.caching import run
from tasks.report import PAGE_NAME, write_report
from tasks.tracking import keep_record, tracking_uri, upload_record, upload_waiting

__all__ = ["deploy", "edge_deployment"]


@flow(
    name="edge-deployment",
    description="One trained model to a verified, released bundle on one device.",
    persist_result=True,
    result_serializer="json",
)
@signature_of_fields(DeploymentParameters)
def edge_deployment(**given: Any) -> DeploymentResult | State[DeploymentResult]:
    """Run the five stages; a failing one ends the run, and the state carries the result up to there."""
    journal = Journal(str(flow_run.id or uuid4()), resolve(DeploymentParameters.of(given)))
    # The store is not cleaned while a run relies on what lies there.
    with Store().in_use():
        _attempt(journal)
        tracking = _tracked(journal)
        for note in journal.notes:
            get_run_logger().warning(note)
        result = journal.result().model_copy(update={"tracking": tracking})
    # A failed state that carries the result: Prefect shows the failure, `deploy` still has the figures.
    if result.status == "failed":
        return Failed(message=result.error, data=result)
    return result


def deploy(**parameters: Any) -> DeploymentResult:
    """Run the pipeline here and return its result, failed or not; the parameters are `DeploymentParameters`.

    Raises:
        InputError: a parameter that cannot be used; nothing was written.
        EdgewrightError: the orchestrator could not go on, for want of room on its disk as a rule.
    """
    given = DeploymentParameters.of(parameters)
    try:
        # The state, not the result: of a failed flow Prefect would raise instead of returning what it carries.
        state = cast("State[DeploymentResult]", edge_deployment(**dict(given), return_state=True))
    except Exception as e:
        raise foreseen(e) or e from e
    result = state.result(raise_on_failure=False)
    if isinstance(result, DeploymentResult):
        return result
    raise result if isinstance(result, BaseException) else EdgewrightError(f"the flow ended without a result: {state}")


def _attempt(journal: Journal) -> None:
    """Run the stages; the journal keeps what ended them, and what was told."""
    try:
        # The pipeline's own heartbeat tells a crash; a stage would wait up to a second for its thread to end.
        quiet = temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})
        with quiet, progress.listening(journal.hear):
            _run_stages(journal)
    except Exception as e:
        expected = foreseen(e)
        journal.error = expected or e
        if expected is None:
            get_run_logger().critical("a stage failed in a way that is not foreseen", exc_info=True)


def _run_stages(journal: Journal) -> None:
    request = journal.request
    parameters = request.parameters
    device, recipe = request.device, request.recipe
    with journal.stage("optimize"):
        journal.optimization = optimization = optimize(
            request.model, request.data, device, recipe, request.name, request.budget.max_size_mb
        )
    with journal.stage("validate"):
        report = validate(optimization, device, request.budget, recipe.max_accuracy_drop_percent)
        journal.optimization, journal.report = optimization, report = _or_float32(optimization, report, request)
    # After the report is in the journal: a run that misses its budget still shows by how much.
    _gate(report, allow_poor_source=parameters.allow_poor_source)
    with journal.stage("package"):
        plan = request.monitoring.with_limits_of(report)
        journal.bundle = bundle = package(optimization, report, device, plan)
    with journal.stage("deploy"):
        repository = parameters.repository or str(home() / "releases")
        journal.release = release = deploy_stage(bundle, repository, request.channel)
    with journal.stage("monitor"):
        journal.health = monitor_stage(
            release.repository, release.channel, model=release.model, platform=Platform(release.platform)
        )


def _or_float32(
    optimization: Optimization, report: ValidationReport, request: DeploymentRequest
) -> tuple[Optimization, ValidationReport]:
    """What to release where the candidate misses a limit on the test rows: the float32 file, if it meets them all.

    The validation rows chose the candidate, and the test rows refuse it. Another of the recipe's files would then be
    chosen by the rows that measure it; the float32 file is there before any choice. What is to be kept always has no
    such fallback.
    """
    always = any(technique.keep == "always" for technique in request.recipe.techniques)
    # Where nothing was kept the candidate is the float32 file already.
    if report.passed or always or optimization.candidate.artifact.digest == optimization.baseline.artifact.digest:
        return optimization, report
    missed = _missed(report)
    plain = optimization.in_float32(f"not released: {missed}")
    # Measured like any other candidate: that it is the baseline does not make it meet the limits.
    held = validate(plain, request.device, request.budget, request.recipe.max_accuracy_drop_percent)
    if not held.passed:
        return optimization, report
    technique_names = " and ".join(step.technique for step in optimization.steps if step.kept)
    note = f"released in float32, without {technique_names}, which misses a limit on the test rows: {missed}"
    progress.note(note)
    return plain, held.model_copy(update={"notes": (note, *held.notes)})


def _missed(report: ValidationReport) -> str:
    return "; ".join(line.sentence() for line in report.violations)


def _gate(report: ValidationReport, *, allow_poor_source: bool) -> None:
    if not report.passed:
        raise BudgetExceededError(_missed(report))
    if report.warnings and not allow_poor_source:
        cure = "--allow-poor-source (allow_poor_source in the UI's form) releases it all the same"
        raise PoorSourceError("; ".join((*report.warnings, cure)))


def _tracked(journal: Journal) -> Tracking | None:
    """Whatever becomes of the record, what was deployed is told."""
    try:
        with progress.listening(journal.hear):
            return _track(journal)
    except Exception as e:
        expected = foreseen(e)
        if expected is None:
            get_run_logger().critical("the run's record failed in a way that is not foreseen", exc_info=True)
        reason = expected or f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"
        journal.notes.append(f"the run is not in MLflow: {reason}")
        return None


def _track(journal: Journal) -> Tracking:
    """Keep the record, then send it and whatever an earlier run could not; a server that is down fails nothing."""
    # The record holds the report's files, so they are written first.
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
