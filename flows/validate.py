"""Stage two: the candidate on the test rows and on the clock, beside its float32 baseline, against the budget."""

import re
from pathlib import Path
from typing import Annotated

from prefect import flow, unmapped
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.futures import PrefectFuture
from pydantic import Field

from edgewright.artifact import Precision
from edgewright.errors import EdgewrightError, UnsupportedError
from edgewright.measurement import Emulation, ValidationReport
from edgewright.package import read_bundle
from edgewright.pipeline.bundle_check import DeviceCheck, check_rows, validated_bundle
from edgewright.pipeline.result import Optimization
from edgewright.profile import Budget, DeviceProfile, load_device
from edgewright.report.figures import budget_rows
from edgewright.report.markdown import report_markdown
from edgewright.store import Store
from edgewright.validate.energy import energy_of
from edgewright.validate.machine import measured_by
from edgewright.validate.requirements import advice, unmet
from edgewright.validate.targets import arm_system, device_image
from edgewright.validate.targets.arm import CORES
from edgewright.validate.targets.arm_system import SYSTEMS
from edgewright.validate.targets.x86 import HASWELL, missing_tool
from tasks import validate as steps
from tasks.caching import run

__all__ = ["validate", "validate_bundle"]


@flow(name="validate", description="Measure an optimized model and hold it against a budget.", result_serializer="json")
def validate(
    optimization: Optimization, device: DeviceProfile, budget: Budget, max_accuracy_drop_percent: float
) -> ValidationReport:
    """A report whether passed or not; the gate is the pipeline's. The report stands in the Prefect UI too."""
    if reasons := unmet(optimization.candidate, device):
        raise UnsupportedError("; ".join(reasons))
    baseline = run(steps.evaluate, optimization.model, optimization.dataset, optimization.baseline)
    candidate = run(steps.evaluate, optimization.model, optimization.dataset, optimization.candidate)
    performance = run(
        steps.measure, optimization.baseline, optimization.candidate, optimization.dataset, device, measured_by(device)
    )
    emulations, notes = _emulated(optimization, device)
    energy = energy_of(performance.sustained, emulations, device)
    limits = (budget, max_accuracy_drop_percent)
    warnings = run(steps.source_doubts, optimization.model, optimization.dataset)
    report = run(steps.judge, baseline, candidate, performance, *limits, emulations, notes, energy, warnings)
    pair = f"{optimization.model.name}-{device.name}".lower()
    title = re.sub(r"[^a-z0-9]+", "-", pair)  # all that Prefect's keys may hold
    create_table_artifact(key=f"budget-{title}", table=budget_rows(report), description="Limits and figures")
    create_markdown_artifact(
        key=f"report-{title}", markdown=report_markdown(report, optimization.model.name, device.title)
    )
    return report


@flow(
    name="validate-bundle",
    description="One bundle on several devices at once, one measurement a device.",
    result_serializer="json",
)
def validate_bundle(
    bundle: Path,
    devices: Annotated[list[str], Field(min_length=1)],
    baseline: Path | None = None,
    quick: bool = False,
) -> list[DeviceCheck]:
    """What each device says, in the order asked for; a device that refuses the bundle does not stop the others.

    Args:
        bundle: A bundle's folder, as the pipeline makes it.
        devices: Device profiles by name, or paths of your own .yaml.
        baseline: A bundle to compare with, timed interleaved.
        quick: Heat for 5 seconds instead of 60.
    """
    # Profiles first: a name that is wrong is refused before anything is measured.
    profiles = [load_device(name) for name in devices]
    with Store().in_use():
        return _checks(bundle, profiles, baseline, quick)


def _checks(bundle: Path, profiles: list[DeviceProfile], baseline: Path | None, quick: bool) -> list[DeviceCheck]:
    store = Store()
    candidate = validated_bundle(read_bundle(bundle), store)
    before = validated_bundle(read_bundle(baseline), store) if baseline is not None else None
    running = steps.check_bundle.map(unmapped(candidate), unmapped(before), profiles, unmapped(quick))
    checks = [_settled(future, device) for future, device in zip(running, profiles, strict=True)]
    verdict = f"{bundle}: passed on {sum(check.passed for check in checks)} of {len(checks)} devices"
    create_table_artifact(key="bundle-on-devices", table=check_rows(checks), description=verdict)
    return checks


def _settled(future: PrefectFuture[DeviceCheck], device: DeviceProfile) -> DeviceCheck:
    """A check that could not be made, after its retries, is a failed one: the release manager must see it."""
    result = future.result(raise_on_failure=False)
    if isinstance(result, DeviceCheck):
        return result
    if isinstance(result, EdgewrightError):
        return DeviceCheck(device=device.name, target=device.target_kind, failure=str(result))
    # Not foreseen, so no verdict on the device.
    raise result


def _emulated(optimization: Optimization, device: DeviceProfile) -> tuple[tuple[Emulation, ...], tuple[str, ...]]:
    """The candidate on what stands for the device: its core, its memory; where that was set up, and what to say."""
    notes = advice(optimization.candidate, device)
    core = device.emulated_core
    if core is None:
        return (), notes
    if core == HASWELL:
        return _emulated_x86(optimization, notes)
    architecture, form = CORES[core].architecture, optimization.candidate.artifact.format.value
    if form not in SYSTEMS[architecture].formats:
        return (), (
            *notes,
            f"not run on an emulated {core}: no runtime for .{form} files is published for {architecture}",
        )
    if not arm_system.is_set_up(architecture):
        reason = arm_system.missing_tools() or f"`edgewright target setup {architecture}` makes it"
        return (), (*notes, f"not run on an emulated {core}: {reason}")
    emulations = run(steps.emulate, optimization.candidate, optimization.dataset, core)
    # Memory is real on a whole emulated device alone; user-mode emulation shows the emulator's own.
    if architecture == "arm64" and device_image.is_set_up():
        emulations = (*emulations, run(steps.emulate_device, optimization.candidate, optimization.dataset, device))
    elif architecture == "arm64":
        notes = (*notes, "not run in the device's memory: `edgewright target setup device` makes a whole one")
    return emulations, notes


def _emulated_x86(optimization: Optimization, notes: tuple[str, ...]) -> tuple[tuple[Emulation, ...], tuple[str, ...]]:
    """The candidate on an x86 core that saturates where this machine may not; in float32 both compute alike."""
    # 8-bit sums alone saturate there.
    if optimization.candidate.precision not in {Precision.INT8, Precision.DYNAMIC_INT8}:
        return (), notes
    if reason := missing_tool():
        return (), (*notes, f"not run on an emulated {HASWELL}, x86 without VNNI: {reason}")
    emulations = run(steps.emulate, optimization.candidate, optimization.dataset, HASWELL)
    slow = (
        ()
        if emulations
        else (f"not run on an emulated {HASWELL}, x86 without VNNI: too large to be emulated in a minute",)
    )
    return emulations, (*notes, *slow)
