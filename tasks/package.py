"""Bundling, as a task."""

from edgewright.artifact import Dataset, Exported, ImportedModel
from edgewright.measurement import ValidationReport
from edgewright.monitor import MonitoringPlan
from edgewright.package import Bundle
from edgewright.profile import DeviceProfile
from edgewright.store import Store
from tasks.caching import step

__all__ = ["build_bundle"]


@step("Building the bundle", "edgewright.package")
def build_bundle(
    model: ImportedModel,
    dataset: Dataset,
    exported: Exported,
    report: ValidationReport,
    device: DeviceProfile,
    monitoring: MonitoringPlan,
) -> Bundle:
    """Everything a device needs to run and check the model; see `edgewright.package.build_bundle`."""
    from edgewright import package

    return package.build_bundle(model, dataset, exported, report, device, Store(), monitoring=monitoring)
