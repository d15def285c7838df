"""The training loop that the techniques share."""

import copy

import pytest
import torch
from torch import nn

from edgewright.errors import UnsupportedError
from edgewright.optimize.prune import prune
from edgewright.optimize.training import TrainingRows, class_logits, distillation_loss, fit, joined, predictions
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
    rows = TrainingRows(inputs, (inputs[:, 0] + inputs[:, 1] > 0.8).long())
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


@pytest.mark.parametrize(("rows", "batch_size"), [(65, 64), (3, 2), (129, 128)])
def test_a_rest_of_one_row_joins_the_batch_before_it(rows, batch_size):
    """BatchNorm over (N, C) divides by the variance of the batch, which one row has none of."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    sizes: list[int] = []
    net[0].register_forward_pre_hook(lambda layer, given: sizes.append(len(given[0])) if layer.training else None)
    shares: list[float] = []
    data = TrainingRows(torch.randn(rows, 4), torch.randint(0, 2, (rows,)))
    fit(net, data, Training(epochs=2, batch_size=batch_size), on_step=shares.append)
    assert sum(sizes) == 2 * rows
    assert min(sizes) > 1
    assert shares[-1] == 1.0


def test_a_batch_that_the_network_refuses_is_one_clear_line():
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    with pytest.raises(UnsupportedError, match=r"a batch of 1 row\(s\): Expected more than 1 value .* `batch_size`"):
        fit(net, TrainingRows(torch.randn(3, 4), torch.tensor([0, 1, 0])), Training(epochs=1, batch_size=1))


class Scaled(nn.Module):
    """A whole number among its parameters, as a graph that is taken in may have."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(4, 2)
        self.times = nn.Parameter(torch.tensor(3), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense(x) * self.times


def test_a_whole_number_is_no_parameter_to_train():
    net = Scaled()
    before = net.dense.weight.detach().clone()
    fit(net, TrainingRows(torch.randn(8, 4), torch.randint(0, 2, (8,))), Training(epochs=1))
    assert net.times == 3
    assert not torch.equal(net.dense.weight, before)


@pytest.mark.parametrize("distill", [0.0, 0.7])
def test_a_softmax_at_the_end_changes_no_step_of_the_training(rows, distill):
    """A Keras classifier ends in one, and it stays: its probabilities must not be taken for logits."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    ended = nn.Sequential(copy.deepcopy(plain), nn.Softmax(dim=1))
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    training = Training(epochs=3, learning_rate=1e-2, distill=distill)
    fit(plain, rows, training, teacher=teacher)
    fit(ended, rows, training, teacher=nn.Sequential(teacher, nn.Softmax(dim=1)))
    torch.testing.assert_close(ended[0][1].weight, plain[1].weight, atol=1e-4, rtol=1e-3)


def test_a_student_that_ends_in_logits_learns_from_a_softmax(rows):
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Softmax(dim=1))
    loss = distillation_loss(teacher, rows, Training(distill=1.0), student=nn.Sequential(*teacher[:2]))
    part = rows.take(32)
    assert loss(part.inputs, teacher[:2](part.inputs), part.targets).item() == pytest.approx(0, abs=1e-5)


def test_scores_of_one_axis_are_scores_too():
    net = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    data = TrainingRows(torch.randn(20, 4), torch.randint(0, 2, (20,)))
    assert class_logits(net, data)(net(data.inputs)).shape == (20, 2)
    assert joined((net(data.inputs), torch.zeros(20, 3))).shape == (20, 4)
