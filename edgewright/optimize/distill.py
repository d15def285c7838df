"""Distillation: a student of fewer channels learns the teacher's softened answers (Hinton et al., arXiv 1503.02531).

The student is derived from the teacher by structured pruning in one step. Runs in a child process: imports torch.
"""

from torch import fx

from edgewright.errors import UnsupportedError
from edgewright.optimize.prune_channels import prune_channels
from edgewright.optimize.training import Rows, fit
from edgewright.recipe import Distill, PruneChannels

__all__ = ["distill"]


def distill(model: fx.GraphModule, params: Distill, rows: Rows | None) -> fx.GraphModule:
    """A trained student of ``model``; where ``params.ratio`` is 0 the student has the teacher's own shape.

    Raises:
        UnsupportedError: no training rows, or the structure cannot be pruned that far.
    """
    if rows is None:
        raise UnsupportedError("distill: needs training rows; give data with a training split")
    if not params.ratio:
        import copy

        student = copy.deepcopy(model)
        fit(student, rows, params.training, teacher=model)
        return student
    narrower = PruneChannels(ratio=params.ratio, importance="taylor", steps=1, training=params.training)
    return prune_channels(model, narrower, rows)
