"""Stage one: the model through intake, exported as it is, then each technique of the recipe, kept if it is useful."""

from pathlib import Path

from prefect import flow

from edgewright.artifact import Dataset, Exported, ImportedModel, ModelTask, Precision
from edgewright.data import DataSpec
from edgewright.errors import UnsupportedError
from edgewright.intake import companion_files
from edgewright.measurement import Benefit, LedgerEntry
from edgewright.pipeline.result import Optimization, Refusal, Step
from edgewright.profile import DeviceProfile
from edgewright.recipe import AnyTechnique, Quantize, Recipe
from edgewright.report.ledger import ledger_entry
from edgewright.validate.machine import measured_by
from edgewright.validate.requirements import unmet
from tasks import optimize as steps
from tasks.caching import run
from tasks.intake import take_in
from tasks.validate import benefit, evaluate, measure, weigh

__all__ = ["optimize"]


@flow(name="optimize", description="Take a model in, export it, and apply a recipe to it.", result_serializer="json")
def optimize(
    model: Path,
    data: DataSpec,
    device: DeviceProfile,
    recipe: Recipe,
    name: str | None = None,
    max_size_mb: float | None = None,
) -> Optimization:
    """Every technique is exported and judged on the validation rows; the test rows are not looked at here."""
    taken = run(take_in, model, data, *companion_files(model))
    # A kept result may be of the same file under another name, or of a metric whose code has changed.
    first = imported = taken.model.model_copy(update={"name": name or model.stem, "metric": data.chosen_metric})
    dataset, precision = taken.dataset, Precision.FLOAT32
    baseline = _required(run(steps.export, imported, dataset, device, precision, device.export.code), device)
    candidate, done, ledger = baseline, list[Step](), list[LedgerEntry]()
    for technique in recipe.techniques:
        outcome = _apply(imported, dataset, device, precision, technique, recipe.max_accuracy_drop_percent)
        if isinstance(outcome, Refusal):
            # `keep: always` is an order: a recipe that cannot be kept to ends the run.
            _refuse_if_always(technique, outcome)
            done.append(_step(technique, None, is_kept=False, reason=outcome.reason))
            continue
        changed, exported, used = outcome
        learnt = _learnt(technique, imported)
        verdict, before, after = _judge(
            imported, changed, dataset, device, recipe, technique, (candidate, exported), max_size_mb
        )
        # `keep: always` overrules the verdict, which the report shows all the same.
        keep = verdict.useful or technique.keep == "always"
        done.append(_step(technique, exported, is_kept=keep, reason=verdict.cause + learnt))
        # The file before the first technique is the ledger's first line.
        ledger += [*([] if ledger else [before]), after.model_copy(update={"kept": keep})]
        # The next technique goes on from what was kept; what was not leaves no trace in the model.
        if keep:
            imported, candidate, precision = changed, exported, used
    if not ledger:  # no technique to compare it with: the report has its accuracy and its latency
        ledger.append(ledger_entry("float32", run(weigh, baseline), None, None, is_kept=True))
    return Optimization(
        model=imported,
        dataset=dataset,
        baseline=baseline,
        candidate=candidate,
        steps=tuple(done),
        ledger=tuple(ledger),
        taken_in=first if imported != first else None,
    )


def _apply(
    model: ImportedModel,
    dataset: Dataset,
    device: DeviceProfile,
    precision: Precision,
    technique: AnyTechnique,
    max_drop_percent: float,
) -> tuple[ImportedModel, Exported, Precision] | Refusal:
    """The changed model, its export, and the precision of that."""
    changed = steps.compress(model, technique, dataset, device)
    if isinstance(changed, Refusal):
        return changed
    if isinstance(technique, Quantize):
        exported = steps.quantize_within(changed, technique, dataset, device, max_drop_percent)
        precision = Precision(technique.dtype)
    else:
        # In the precision that an earlier step has brought: pruning after float16 is judged in float16.
        exported = run(steps.export, changed, dataset, device, precision, device.export.code)
    return exported if isinstance(exported, Refusal) else (changed, exported, precision)


def _judge(
    before: ImportedModel,
    after: ImportedModel,
    dataset: Dataset,
    device: DeviceProfile,
    recipe: Recipe,
    technique: AnyTechnique,
    pair: tuple[Exported, Exported],
    max_size_mb: float | None,
) -> tuple[Benefit, LedgerEntry, LedgerEntry]:
    """Whether the step was worth it, and both files' figures for the ledger."""
    # Validation rows: the test rows must not have chosen what they will judge.
    old = run(evaluate, before, dataset, pair[0], split="validation")
    new = run(evaluate, after, dataset, pair[1], split="validation")
    performance = run(measure, *pair, dataset, device, measured_by(device))
    weights = (run(weigh, pair[0]), run(weigh, pair[1]))
    verdict = run(benefit, old, new, performance, recipe, technique, pair[1].precision, weights, max_size_mb)
    # Only a recipe's first step calls what was before it by this name.
    first = ledger_entry("float32", weights[0], old, performance.baseline, is_kept=True)
    entry = ledger_entry(technique.technique, weights[1], new, performance.candidate, is_kept=verdict.useful)
    return verdict, first, entry


def _required(exported: Exported | Refusal, device: DeviceProfile) -> Exported:
    """The float32 export; what the device cannot run is found before anything is measured."""
    if isinstance(exported, Refusal):
        raise UnsupportedError(exported.reason)
    if missing := unmet(exported, device):
        raise UnsupportedError("; ".join(missing))
    return exported


def _refuse_if_always(technique: AnyTechnique, refusal: Refusal) -> None:
    if technique.keep == "always":
        raise UnsupportedError(f"{technique.technique} (keep: always): {refusal.reason}")


def _learnt(technique: AnyTechnique, model: ImportedModel) -> str:
    """What a technique that trains had to learn from, where that was not the data's answers."""
    if getattr(technique, "training", None) is None:
        return ""
    if model.task is ModelTask.NONE:
        return "; it learnt the source's own answers: the data has none that fit"
    if len(model.outputs) > 1:
        return f"; it learnt all {len(model.outputs)} outputs of the source, not the data's answers"
    return ""


def _step(technique: AnyTechnique, exported: Exported | None, *, is_kept: bool, reason: str) -> Step:
    parameters = {k: str(v) for k, v in technique.model_dump(mode="json", exclude={"technique"}).items()}
    return Step(technique=technique.technique, parameters=parameters, exported=exported, kept=is_kept, reason=reason)
