"""The training loop that the techniques share."""

import pytest
import torch
from torch import nn

from edgewright.optimize.prune import prune
from edgewright.optimize.training import distillation_loss, fit, predictions
from edgewright.recipe import Prune, Training


def test_training_keeps_what_is_zero_at_zero(model, rows):
    pruned = prune(model, Prune(sparsity=0.7, training=None), None)
    zeros = pruned.fc1.weight == 0
    fit(pruned, rows, Training(epochs=1))
    assert (pruned.fc1.weight[zeros] == 0).all()


def test_distillation_loss_is_zero_of_the_teacher_itself_and_scaled_by_temperature_squared(model, rows):
    part = rows.take(32)
    teacher = predictions(model, part.inputs)
    for temperature in (1.0, 4.0):
        loss = distillation_loss(model, rows, Training(distill=1.0, temperature=temperature))
        assert float(loss(part.inputs, teacher, part.targets)) == pytest.approx(0, abs=1e-5)
        student = torch.zeros_like(teacher)
        by_hand = temperature**2 * nn.functional.kl_div(
            torch.log_softmax(student / temperature, 1), torch.softmax(teacher / temperature, 1), reduction="batchmean"
        )
        assert float(loss(part.inputs, student, part.targets)) == pytest.approx(float(by_hand), rel=1e-4)
