"""Whether a changed network may take the place of the original: a paired test on the same rows. Imports torch.

The same statistics as the accuracy gate's, on the graph instead of an exported file, so that a search costs no export.
"""

from torch import nn

from edgewright.artifact import ModelTask
from edgewright.optimize.training import Rows, class_logits, predictions
from edgewright.statistics.accuracy import compare_accuracy

__all__ = ["loses_little"]

_SIGNIFICANT = 0.05


def loses_little(original: nn.Module, rows: Rows, max_drop_percent: float, changed: nn.Module) -> bool:
    """Whether ``changed`` loses no more than allowed, percentage points, or no more than chance explains.

    ``rows`` are validation rows: neither trained on nor tested on.
    """
    before, after = (predictions(model, rows.inputs) for model in (original, changed))
    if rows.is_classification:
        logits_of = class_logits(original, rows)
        task, answers = ModelTask.CLASSIFICATION, [logits_of(v).argmax(1).numpy() for v in (before, after)]
    else:
        task, answers = ModelTask.REGRESSION, [v.double().numpy() for v in (before, after)]
    drop = compare_accuracy(task, rows.targets.numpy(), *answers)
    return drop.percent <= max_drop_percent or drop.p_value >= _SIGNIFICANT
