"""Students, and who teaches them."""

import copy

import pytest
import torch

from edgewright.optimize.distill import distill
from edgewright.recipe import Distill, Training
from tests.optimize.networks import SHORT, accuracy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*pruning.*:UserWarning")


def test_distillation_leaves_the_teacher_alone(model, rows):
    before = copy.deepcopy(model.state_dict())
    distill(model, Distill(ratio=0, training=Training(epochs=1, distill=0.7)), rows)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_distill_derives_a_narrower_student(model, rows):
    student = distill(model, Distill(ratio=0.5, training=SHORT.model_copy(update={"distill": 0.7})), rows)
    assert sum(p.numel() for p in student.parameters()) < sum(p.numel() for p in model.parameters())
    assert accuracy(student, rows) > accuracy(model, rows) - 0.08
