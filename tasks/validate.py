"""Measurement and judgement, as tasks."""

from typing import Literal, ParamSpec, TypeVar

from prefect import Task

from edgewright.artifact import Dataset, Exported, ImportedModel, Precision
from edgewright.measurement import Benefit, Emulation, Energy, Evaluation, Footprint, Performance, ValidationReport
from edgewright.pipeline.bundle_check import DeviceCheck, ValidatedBundle
from edgewright.profile import Budget, DeviceProfile
from edgewright.recipe import AnyTechnique, Recipe
from edgewright.validate.targets.arm import Core
from tasks.caching import step

__all__ = [
    "benefit",
    "check_bundle",
    "emulate",
    "emulate_device",
    "evaluate",
    "judge",
    "measure",
    "source_doubts",
    "weigh",
]

P = ParamSpec("P")
R = TypeVar("R")

_REBOOT_DELAYS_S = [2.0, 15.0, 30.0]


def _patient(task: Task[P, R]) -> Task[P, R]:
    """A device that reboots is back in about half a minute: what was pushed to it is still there."""
    return task.with_options(retries=len(_REBOOT_DELAYS_S), retry_delay_seconds=_REBOOT_DELAYS_S)


@step("Checking accuracy and parity on real rows", "edgewright.validate.evaluation")
def evaluate(
    model: ImportedModel, dataset: Dataset, exported: Exported, split: Literal["test", "validation"] = "test"
) -> Evaluation:
    """Run the exported file over a split in its own runtime; see `edgewright.validate.evaluate`."""
    from edgewright import validate
    from edgewright.validate.targets.choice import THIS_MACHINE, alone_on

    with alone_on(THIS_MACHINE):  # whoever measures here meanwhile would be disturbed
        return validate.evaluate(model, dataset, exported, split=split)


@step("Looking into the source model's own answers", "edgewright.validate.source_check")
def source_doubts(model: ImportedModel, dataset: Dataset) -> tuple[str, ...]:
    """Whether the source is better than chance, and not far worse than on its training rows; see `source_check`."""
    from edgewright import validate
    from edgewright.validate.targets.choice import THIS_MACHINE, alone_on

    with alone_on(THIS_MACHINE):
        return validate.source_doubts(model, dataset)


@step("Measuring download size", "edgewright.codec.download")
def weigh(exported: Exported) -> Footprint:
    """Bytes on disk and in transfer, and how the weights are coded; see `edgewright.validate.footprint`."""
    from edgewright import validate

    return validate.footprint(exported.artifact.path)


@_patient
@step("Measuring latency and memory", "edgewright.validate.performance")
def measure(
    baseline: Exported, candidate: Exported, dataset: Dataset, device: DeviceProfile, machine: str
) -> Performance:
    """Time the candidate interleaved with its baseline; ``machine`` keys the figures to the processor they hold for."""
    from edgewright import validate

    return validate.measure(baseline, candidate, dataset, device)


@step("Running on an emulated Arm core", "edgewright.validate.emulation")
def emulate(candidate: Exported, dataset: Dataset, core: Core | Literal["haswell"]) -> tuple[Emulation, ...]:
    """Whether it runs there, agrees, and what it executes; see `edgewright.validate.emulate`."""
    from edgewright import validate
    from edgewright.validate.targets.choice import THIS_MACHINE, alone_on

    with alone_on(THIS_MACHINE):
        return validate.emulate(candidate, dataset, [core])


@step("Running on a whole emulated device", "edgewright.validate.emulation")
def emulate_device(candidate: Exported, dataset: Dataset, device: DeviceProfile) -> Emulation:
    """Whether it fits the device's memory; see `edgewright.validate.emulate_device`."""
    from edgewright import validate
    from edgewright.validate.targets.choice import THIS_MACHINE, alone_on

    with alone_on(THIS_MACHINE):
        return validate.emulate_device(candidate, dataset, device)


@_patient
@step("Checking a bundle on a device")
def check_bundle(
    bundle: ValidatedBundle, baseline: ValidatedBundle | None, device: DeviceProfile, quick: bool
) -> DeviceCheck:
    """Never cached: a figure is wanted of the device as it is now; see `edgewright.pipeline.bundle_check`."""
    from edgewright.pipeline import bundle_check

    return bundle_check.check_bundle(bundle, baseline, device, quick=quick)


@step("Judging against the budget", "edgewright.validate.verdict")
def judge(
    baseline: Evaluation,
    candidate: Evaluation,
    performance: Performance,
    budget: Budget,
    max_drop_percent: float,
    emulations: tuple[Emulation, ...] = (),
    notes: tuple[str, ...] = (),
    energy: Energy | None = None,
    warnings: tuple[str, ...] = (),
) -> ValidationReport:
    """Hold every figure against its limit; see `edgewright.validate.judge`."""
    from edgewright import validate

    limits = (budget, max_drop_percent)
    return validate.judge(baseline, candidate, performance, *limits, emulations, notes, energy, warnings)


@step("Judging whether the technique was worth it", "edgewright.validate.verdict", "edgewright.validate.causes")
def benefit(
    baseline: Evaluation,
    candidate: Evaluation,
    performance: Performance,
    recipe: Recipe,
    technique: AnyTechnique,
    precision: Precision,
    footprints: tuple[Footprint, Footprint],
    max_size_mb: float | None,
) -> Benefit:
    """Smaller or faster at an accuracy that is allowed, or of no benefit; see `edgewright.validate.benefit`."""
    from edgewright import validate
    from edgewright.validate.causes import causes

    why = causes(technique, precision, *footprints, performance)
    limits = (recipe.max_accuracy_drop_percent, recipe.max_class_drop_percent)
    return validate.benefit(baseline, candidate, performance, *limits, why, max_size_mb)
