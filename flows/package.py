"""Stage three: the model with everything a device needs to run and check it."""

from prefect import flow

from edgewright.measurement import ValidationReport
from edgewright.monitor import MonitoringPlan
from edgewright.package import Bundle
from edgewright.pipeline.result import Optimization
from edgewright.profile import DeviceProfile
from tasks.caching import run
from tasks.package import build_bundle

__all__ = ["package"]


@flow(name="package", description="Build the bundle of a validated model.", result_serializer="json")
def package(
    optimization: Optimization, report: ValidationReport, device: DeviceProfile, monitoring: MonitoringPlan
) -> Bundle:
    """The same model, report and plan give the same bundle, byte for byte."""
    return run(
        build_bundle, optimization.model, optimization.dataset, optimization.candidate, report, device, monitoring
    )
