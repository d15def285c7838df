"""What the pipeline hands back. No ML framework is imported here."""

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgewright.artifact import Artifact, Dataset, Exported, ImportedModel
from edgewright.measurement import LedgerEntry, Measurement, ValidationReport
from edgewright.monitor import Health
from edgewright.package import Bundle
from edgewright.pipeline.stages import StageName
from edgewright.profile import Platform
from edgewright.release import Release
from edgewright.report.ledger import ledger_metrics
from edgewright.value import Value

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DeploymentResult", "Optimization", "Refusal", "Step", "Tracking"]


class Step(Value):
    """One technique of the recipe: what it made, what it brought, and whether it was kept.

    ``reason`` says why a step was left out, or what it gained.
    """

    technique: str
    parameters: dict[str, str]
    exported: Exported | None
    kept: bool
    reason: str


class Optimization(Value):
    """The outcome of the first stage: a float32 baseline and the candidate that the recipe made of it.

    ``ledger`` begins with the baseline; an entry follows for each step that was exported. ``taken_in`` is the model
    before its first technique; None where none changed it.
    """

    model: ImportedModel
    dataset: Dataset
    baseline: Exported
    candidate: Exported
    steps: tuple[Step, ...] = ()
    ledger: tuple[LedgerEntry, ...] = ()
    taken_in: ImportedModel | None = None

    def in_float32(self, reason: str) -> "Optimization":
        """The baseline in the candidate's place, and no step kept, for that reason."""
        steps = (
            step.model_copy(update={"kept": False, "reason": f"{step.reason}; {reason}"}) if step.kept else step
            for step in self.steps
        )
        ledger = (entry.model_copy(update={"kept": i == 0}) for i, entry in enumerate(self.ledger))
        changed = {"candidate": self.baseline, "steps": tuple(steps), "ledger": tuple(ledger), "taken_in": None}
        return self.model_copy(update={"model": self.taken_in or self.model, **changed})

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """Every file that the stage made, source first."""
        files = [self.model.source, self.model.onnx, self.model.graph, self.dataset.artifact, self.baseline.artifact]
        files += [step.exported.artifact for step in self.steps if step.exported]
        # Each once, in order: what a step left as it was is the artifact of the step before.
        return tuple(dict.fromkeys(a for a in files if a is not None))

    def sizes(self) -> tuple[tuple[str, int], ...]:
        """Bytes on disk after each step that was exported, the float32 baseline first."""
        steps = [
            (f"{step.technique}{'' if step.kept else ' (no benefit)'}", step.exported.artifact.size_bytes)
            for step in self.steps
            if step.exported
        ]
        return (("float32", self.baseline.artifact.size_bytes), *steps)


class Tracking(Value):
    """Where the run's record went: MLflow's run id, or None while the record waits for the server."""

    uri: str
    run_id: str | None
    pending: str | None = None


class DeploymentResult(Value):
    """What one pipeline run did; everything up to the failing stage is there.

    ``over_budget`` tells a missed limit from a failure of another kind. ``notes`` are of the run itself, as that a file
    in the store was damaged and replaced; ``page`` is the report for reading.
    """

    status: Literal["succeeded", "failed"]
    deployment_id: str
    completed_stages: tuple[StageName, ...]
    error: str | None = None
    over_budget: bool = False
    platform: Platform
    device: str
    recipe: str
    optimization: Optimization | None = None
    report: ValidationReport | None = None
    bundle: Bundle | None = None
    release: Release | None = None
    health: Health | None = None
    tracking: Tracking | None = None
    notes: tuple[str, ...] = ()
    page: Path | None = None
    seconds: float

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """Every file that the run made or took, source first."""
        files = self.optimization.artifacts if self.optimization else ()
        return (*files, self.bundle.artifact) if self.bundle else files

    def to_frame(self) -> "pd.DataFrame":
        """A row for the float32 baseline and for each step that was exported: size, accuracy and latency."""
        import pandas as pd

        entries = self.optimization.ledger if self.optimization else ()
        rows = [{"stage": entry.stage, "kept": entry.kept, **ledger_metrics(entry)} for entry in entries]
        return pd.DataFrame(rows).set_index("stage") if rows else pd.DataFrame()

    def _repr_html_(self) -> str:
        """The report, in a frame of its own; one line where the run came to none."""
        if self.page is None or not self.page.is_file():
            return f"<p>{escape(self.status)}: {escape(self.error or 'there is no report')}</p>"
        # `sandbox`: without scripts and without the notebook's origin, as the page shows names out of a stranger's
        # model.
        page = escape(self.page.read_text())
        return f'<iframe srcdoc="{page}" sandbox="" style="width: 100%; height: 40em; border: 0"></iframe>'

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """The float32 baseline and the candidate, as measured."""
        return (self.report.baseline, self.report.candidate) if self.report else ()


class Refusal(Value):
    """Why a step cannot be done to this model; a result that is kept like any other."""

    reason: str
