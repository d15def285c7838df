"""The training loop that the techniques share."""

import pytest
import torch
from torch import nn

from edgewright.optimize.prune import prune
from edgewright.optimize.training import Rows, class_logits, fit, predictions
from edgewright.recipe import Prune, Training


def test_training_keeps_what_is_zero_at_zero(model, rows):
    pruned = prune(model, Prune(sparsity=0.7, training=None), None)
    zeros = pruned.fc1.weight == 0
    fit(pruned, rows, Training(epochs=1))
    assert (pruned.fc1.weight[zeros] == 0).all()


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("constant", [1, 1, 1, 1]),
        ("linear", [1, 0.7525, 0.505, 0.2575]),
        ("step", [1, 1, 0.1, 0.01]),
        ("cosine", [1, 0.855, 0.505, 0.155]),
    ],
)
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_optimizer_and_schedule_are_as_asked(rows, schedule, shares, optimizer, monkeypatch):
    seen: list[float] = []
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[optimizer]
    real = kind.step

    def step(self: torch.optim.Optimizer, *args: object) -> object:
        seen.append(self.param_groups[0]["lr"])
        return real(self, *args)

    monkeypatch.setattr(kind, "step", step)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    fit(net, rows.take(256), Training(epochs=1, batch_size=64, schedule=schedule, optimizer=optimizer))
    assert [lr / 1e-3 for lr in seen] == pytest.approx(shares, rel=0.01)


def test_a_penalty_is_part_of_the_loss(rows):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    outputs: list[torch.Tensor] = []
    net[1].register_forward_hook(lambda _, __, output: outputs.append(output))
    fit(net, rows, Training(epochs=5, learning_rate=1e-2), penalty=lambda _: 100.0 * outputs[-1].square().mean())
    assert float(outputs[-1].detach().square().mean()) < 0.01


@pytest.mark.parametrize("head", [nn.Sigmoid(), nn.Identity()], ids=["probability", "logit"])
@pytest.mark.parametrize("distill", [0.0, 0.7])
def test_one_score_a_row_is_trained_as_the_second_of_two_classes(head, distill):
    """A softmax over one column is always 1: its loss would be zero, and nothing would be learnt."""
    torch.manual_seed(0)
    inputs = torch.randn(600, 4)
    rows = Rows(inputs, (inputs[:, 0] + inputs[:, 1] > 0.8).long())
    teacher = nn.Sequential(nn.Linear(4, 1), head)
    with torch.no_grad():
        teacher[0].weight.copy_(torch.tensor([[6.0, 6.0, 0.0, 0.0]]))
        teacher[0].bias.fill_(-4.8)
    student = nn.Sequential(nn.Linear(4, 1), head)

    def accuracy():
        logits = class_logits(teacher, rows)(predictions(student, inputs))
        return float((logits.argmax(1) == rows.targets).float().mean())

    before = accuracy()
    fit(student, rows, Training(epochs=20, learning_rate=0.05, distill=distill), teacher=teacher)
    assert accuracy() > max(0.9, before + 0.1)
