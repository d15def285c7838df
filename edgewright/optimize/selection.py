"""Whether a changed network may take the place of the original: a paired test on the same rows. Imports torch.

The same statistics as the accuracy gate's, on the graph instead of an exported file, so that a search costs no export.
"""

from torch import nn

from edgewright.artifact import ModelTask
from edgewright.optimize.training import TrainingRows, class_logits, has_several_outputs, predictions
from edgewright.statistics.accuracy import compare_accuracy
from edgewright.statistics.fidelity import fidelity_drop

__all__ = ["loses_little"]

_SIGNIFICANT = 0.05


def loses_little(original: nn.Module, rows: TrainingRows, max_drop_percent: float, changed: nn.Module) -> bool:
    """Whether ``changed`` loses no more than allowed, percentage points, or no more than chance explains.

    Where there are no labels, or several outputs, what counts is how much is kept of the original's own answers.

    ``rows`` are validation rows: neither trained on nor tested on.
    """
    before, after = (predictions(model, rows.inputs) for model in (original, changed))
    if rows.targets is None or has_several_outputs(original, rows):
        lost = fidelity_drop(*({"outputs": v.double().numpy()} for v in (before, after)))
        return lost.percent <= max_drop_percent
    if rows.is_classification:
        logits_of = class_logits(original, rows)
        task, answers = ModelTask.CLASSIFICATION, [logits_of(v).argmax(1).numpy() for v in (before, after)]
    else:
        task, answers = ModelTask.REGRESSION, [v.double().numpy() for v in (before, after)]
    drop = compare_accuracy(task, rows.targets.numpy(), *answers)
    # A loss that these rows cannot tell from chance is not held against it, as in `validate.verdict.benefit`.
    return drop.percent <= max_drop_percent or drop.p_value >= _SIGNIFICANT
