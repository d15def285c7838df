"""Stage two: the candidate on the test rows and on the clock, beside its float32 baseline, against the budget."""

import re

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from edgewright.errors import UnsupportedError
from edgewright.measurement import Emulation, ValidationReport
from edgewright.profile import Budget, DeviceProfile
from edgewright.result import Optimization
from edgewright.validate.machine import machine
from edgewright.validate.requirements import advice, unmet
from edgewright.validate.summary import budget_rows, report_markdown
from edgewright.validate.targets import arm64
from tasks import validate as steps
from tasks.caching import run

__all__ = ["validate"]


@flow(name="validate", description="Measure an optimized model and hold it against a budget.", result_serializer="json")
def validate(
    optimization: Optimization, device: DeviceProfile, budget: Budget, max_accuracy_drop_percent: float
) -> ValidationReport:
    """A report whether passed or not; the gate is the pipeline's. The report stands in the Prefect UI too."""
    made = optimization
    if reasons := unmet(made.candidate, device):
        raise UnsupportedError("; ".join(reasons))
    baseline = run(steps.evaluate, made.model, made.dataset, made.baseline)
    candidate = run(steps.evaluate, made.model, made.dataset, made.candidate)
    performance = run(steps.measure, made.baseline, made.candidate, made.dataset, device, machine())
    emulations, notes = _emulated(made, device)
    report = run(steps.judge, baseline, candidate, performance, budget, max_accuracy_drop_percent, emulations, notes)
    title = re.sub(r"[^a-z0-9]+", "-", f"{made.model.name}-{device.name}".lower())  # all that Prefect's keys may hold
    create_table_artifact(key=f"budget-{title}", table=budget_rows(report), description="Limits and figures")
    create_markdown_artifact(key=f"report-{title}", markdown=report_markdown(report, made.model.name, device.title))
    return report


def _emulated(made: Optimization, device: DeviceProfile) -> tuple[tuple[Emulation, ...], tuple[str, ...]]:
    """The candidate on the core that stands for the device, where it was set up, and what there is to say."""
    notes = advice(made.candidate, device)
    if device.emulated_core is None:
        return (), notes
    if not arm64.is_set_up():
        reason = arm64.missing_tools() or "`edgewright target setup arm64` makes it"
        return (), (*notes, f"not run on an emulated {device.emulated_core}: {reason}")
    return run(steps.emulate, made.candidate, made.dataset, device.emulated_core), notes
