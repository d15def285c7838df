"""BatchNorm folded away."""

import torch
from torch import nn

from edgewright.optimize.fuse import fuse
from edgewright.optimize.training import predictions


def test_fuse_folds_the_norm_and_changes_no_output(model, rows):
    fused = fuse(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    assert torch.allclose(predictions(model, rows.inputs[:50]), predictions(fused, rows.inputs[:50]), atol=1e-4)
