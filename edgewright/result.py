"""What the pipeline hands back. No ML framework is imported here."""

from typing import Literal

from edgewright.artifact import Artifact, Dataset, Exported, ImportedModel, Value

__all__ = ["Optimization", "StageName", "Step"]

StageName = Literal["optimize", "validate", "package", "deploy", "monitor"]


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
    """The outcome of the first stage: a float32 baseline and the candidate that the recipe made of it."""

    model: ImportedModel
    dataset: Dataset
    baseline: Exported
    candidate: Exported
    steps: tuple[Step, ...] = ()

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """Every file that the stage made, source first."""
        made = [self.model.source, self.model.onnx, self.model.graph, self.dataset.artifact, self.baseline.artifact]
        made += [step.exported.artifact for step in self.steps if step.exported]
        return tuple(dict.fromkeys(a for a in made if a is not None))
