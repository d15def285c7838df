"""Stage two: the candidate on the test rows and on the clock, beside its float32 baseline, against the budget."""

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from edgewright.measurement import ValidationReport
from edgewright.profile import Budget, DeviceProfile
from edgewright.result import Optimization
from edgewright.validate.machine import machine
from edgewright.validate.summary import budget_rows, report_markdown
from tasks import validate as steps
from tasks.caching import run

__all__ = ["validate"]


@flow(name="validate", description="Measure an optimized model and hold it against a budget.", result_serializer="json")
def validate(
    optimization: Optimization, device: DeviceProfile, budget: Budget, max_accuracy_drop_percent: float
) -> ValidationReport:
    """A report whether passed or not; the gate is the pipeline's. The report stands in the Prefect UI too."""
    made = optimization
    baseline = run(steps.evaluate, made.model, made.dataset, made.baseline)
    candidate = run(steps.evaluate, made.model, made.dataset, made.candidate)
    performance = run(steps.measure, made.baseline, made.candidate, made.dataset, device, machine())
    report = run(steps.judge, baseline, candidate, performance, budget, max_accuracy_drop_percent)
    title = f"{made.model.name}-{device.name}".lower().replace("_", "-")
    create_table_artifact(key=f"budget-{title}", table=budget_rows(report), description="Limits and figures")
    create_markdown_artifact(key=f"report-{title}", markdown=report_markdown(report, made.model.name, device.title))
    return report
