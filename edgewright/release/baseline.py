"""The release baseline: the figures that a release was validated with, and the plan it is watched by."""

import hashlib

from pydantic import ValidationError

from edgewright.codec.download import unpacked
from edgewright.errors import InputError
from edgewright.measurement import ValidationReport
from edgewright.monitor.plan import MonitoringPlan
from edgewright.package import REPORT_NAME
from edgewright.release.lines import no_release
from edgewright.release.release import Release, current_document, current_release
from edgewright.release.repository import ReleaseRepository
from edgewright.value import Value
from edgewright.yaml_values import first_fault
from edgewright_runtime.errors import IntegrityError

__all__ = ["ReleaseBaseline", "current_baseline"]


class ReleaseBaseline(Value):
    """A line's current release, its monitoring plan, and the report in its bundle."""

    release: Release
    plan: MonitoringPlan
    report: ValidationReport


def current_baseline(
    repository: str, channel: str, *, model: str | None = None, platform: str | None = None
) -> ReleaseBaseline:
    """Read the current release of a line, its report checked against its digest; found as by `rollback`.

    Raises:
        InputError: no such line has a release, there are several, or the report is not there or not what the release
            says.
    """
    files = ReleaseRepository(repository)
    current = current_release(repository, channel, model=model, platform=platform)
    document = current_document(files, current[0].line) if current else None
    if current is None or document is None:
        raise InputError(f"{no_release(files, channel, model, platform)}; nothing to watch")
    blob = next((file for file in document.files if file.path == REPORT_NAME), None)
    packed = files.read(blob.name) if blob else None
    if blob is None or packed is None:
        raise InputError(f"release repository {repository}: version {document.version} has no {REPORT_NAME}")
    # Before it is unpacked: what others may have changed reaches no decoder.
    if hashlib.sha256(packed).hexdigest() != blob.blob:
        raise InputError(f"release repository {repository}: {blob.name} is not what its digest says")
    try:
        report = ValidationReport.model_validate_json(unpacked(packed, blob.bytes))
    except (IntegrityError, ValidationError) as e:
        reason = first_fault(e, ValidationReport) if isinstance(e, ValidationError) else e
        raise InputError(
            f"release repository {repository}: {REPORT_NAME} of version {document.version} cannot be read: {reason}; "
            "another version of Edgewright may have written it: publish that model again"
        ) from e
    return ReleaseBaseline(release=current[0], plan=current[1], report=report)
