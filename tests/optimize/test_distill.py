"""Students, who teaches them, and how strongly."""

import copy

import pytest
import torch
from torch import fx, nn

from edgewright.errors import InputError, UnsupportedError
from edgewright.optimize.distill import distill
from edgewright.optimize.hints import Hints, matched_layers
from edgewright.optimize.prune_channels import multiply_accumulates
from edgewright.optimize.training import TrainingRows, distillation_loss, fit, predictions
from edgewright.recipe import Distill, Training
from tests.optimize.networks import CLASSES, SHORT, accuracy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*pruning.*:UserWarning")

SOFT = SHORT.model_copy(update={"distill": 0.7})


def small_student() -> nn.Module:
    """A user's own network: another structure than the teacher's, with a method call that the importer rewrites."""

    class Student(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 6, 3, stride=2, padding=1)
            self.dense = nn.Linear(96, CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.dense(torch.relu(self.conv(x)).view(-1, 96))

    return Student()


def wrong_student() -> nn.Module:
    """Seven answers where the teacher has four."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))


def no_student() -> int:
    """Not a module."""
    return 3


def test_the_teacher_is_frozen_and_in_eval_mode(rows):
    torch.manual_seed(0)
    layers = (nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, CLASSES))
    teacher = fx.symbolic_trace(nn.Sequential(*layers)).train()
    before = copy.deepcopy(teacher.state_dict())
    loss = distillation_loss(teacher, rows, Training(distill=1.0))
    part = rows.take(32)
    student = torch.zeros(32, CLASSES, requires_grad=True)
    first, second = (loss(part.inputs, student, part.targets) for _ in range(2))
    assert first.item() == second.item()  # dropout would differ
    first.backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())  # BatchNorm saw no batch


def test_distillation_leaves_the_teacher_alone(model, rows):
    before = copy.deepcopy(model.state_dict())
    distill(model, Distill(ratio=0, hints=1.0, training=Training(epochs=1, distill=0.7)), rows)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not any(layer._forward_hooks for layer in model.modules())


def test_the_gradient_of_the_soft_targets_does_not_fade_with_temperature(model, rows):
    part = rows.take(64)

    def gradient(temperature: float) -> float:
        loss = distillation_loss(model, rows, Training(distill=1.0, temperature=temperature))
        student = torch.zeros(64, CLASSES, requires_grad=True)
        loss(part.inputs, student, part.targets).backward()
        assert student.grad is not None
        return float(student.grad.norm())

    # For high temperatures the gradient of KL is (student - teacher) / (classes T^2): T^2 takes that away.
    teacher = predictions(model, part.inputs)
    centred = teacher - teacher.mean(1, keepdim=True)
    assert gradient(500.0) == pytest.approx(float((centred / CLASSES / 64).norm()), rel=0.02)
    assert gradient(1000.0) == pytest.approx(gradient(500.0), rel=0.02)


def test_loss_is_zero_of_the_teacher_itself_and_alpha_weighs_the_labels(model, rows):
    part = rows.take(32)
    teacher = predictions(model, part.inputs)
    student = torch.zeros_like(teacher)
    by_hand = 16 * nn.functional.kl_div(
        torch.log_softmax(student / 4, 1), torch.softmax(teacher / 4, 1), reduction="batchmean"
    )
    hard = nn.functional.cross_entropy(student, part.targets)
    for alpha in (0.3, 1.0):
        loss = distillation_loss(model, rows, Training(distill=alpha, temperature=4.0))
        expected = alpha * float(by_hand) + (1 - alpha) * float(hard)
        assert float(loss(part.inputs, student, part.targets)) == pytest.approx(expected, rel=1e-4)
    soft = distillation_loss(model, rows, Training(distill=1.0))
    assert float(soft(part.inputs, teacher, part.targets)) == pytest.approx(0, abs=1e-5)


def test_a_pruned_student_has_fewer_operations(model, rows):
    student = distill(model, Distill(ratio=0.5, training=SOFT), rows)
    example = rows.inputs[:1]
    assert multiply_accumulates(student, example) <= 0.5 * multiply_accumulates(model, example)
    assert accuracy(student, rows) > accuracy(model, rows) - 0.08


def test_a_student_by_width_is_narrower_in_every_layer(model, rows):
    student = distill(model, Distill(student="width", width=0.5, training=SOFT), rows)
    widths = {name: student.get_submodule(name).weight.shape[0] for name in ("conv1", "conv2", "fc1", "fc2")}
    assert widths == {"conv1": 8, "conv2": 12, "fc1": 24, "fc2": CLASSES}
    assert accuracy(student, rows) > accuracy(model, rows) - 0.08


@pytest.mark.filterwarnings("ignore")  # of torch's exporter; the product runs it in a child process
def test_a_student_from_a_factory_is_what_the_factory_made(model, rows, tmp_path):
    from edgewright.intake import torch_graph

    params = Distill(student=f"{__name__}:small_student", training=SOFT.model_copy(update={"epochs": 20}))
    student = distill(model, params, rows)
    assert sum(p.numel() for p in student.parameters()) == sum(p.numel() for p in small_student().parameters())
    assert accuracy(student, rows) > 0.85
    torch_graph.save(student, tmp_path / "student.safetensors")
    again = torch_graph.load(tmp_path / "student.safetensors").eval()
    assert torch.equal(predictions(again, rows.inputs[:5]), predictions(student, rows.inputs[:5]))


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (f"{__name__}:nobody", "cannot be called"),
        (f"{__name__}:no_student", "returned a int"),
        (f"{__name__}:wrong_student", r"answers with \(2, 7\); the model with \(2, 4\)"),
        ("no.such.module:make", "cannot be called: No module named 'no'"),
    ],
)
def test_a_factory_that_cannot_serve_is_refused(model, rows, factory, message):
    with pytest.raises(InputError, match=message):
        distill(model, Distill(student=factory, training=SOFT), rows)


def test_hints_match_the_last_convolution_of_each_size(model, rows):
    assert matched_layers(model, model, rows.inputs[:1]) == (("conv2", "conv2"),)
    dense = fx.symbolic_trace(nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)))
    with pytest.raises(UnsupportedError, match="hint_layers"):
        matched_layers(model, dense, rows.inputs[:1])


def test_hints_draw_the_students_features_to_the_teachers(model, rows):
    def distance(weight: float) -> float:
        torch.manual_seed(1)
        student = fx.symbolic_trace(narrow())
        hints = Hints(model, student, (("conv2", "2"),), rows.inputs[:1], weight, 0)
        training = Training(epochs=12, batch_size=64, learning_rate=3e-3, distill=0.7)
        fit(student, rows, training, teacher=model, penalty=hints, extra=hints.parameters)
        hints.close()
        # How well a linear map of the student's features gives the teacher's: fitted here, by least squares.
        given, wanted = _features(student, "2", rows), _features(model, "conv2", rows)
        given = torch.cat([given, torch.ones(len(given), 1)], 1)
        left = wanted - given @ torch.linalg.lstsq(given, wanted).solution
        return float(left.square().mean() / wanted.var())

    assert distance(10.0) < 0.8 * distance(1e-9)


def narrow() -> nn.Module:
    """16 channels where the teacher has 24."""
    layers = (nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, CLASSES))


def _features(net: fx.GraphModule, layer: str, rows: TrainingRows) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    handle = net.get_submodule(layer).register_forward_hook(lambda _, __, output: seen.append(output))
    predictions(net, rows.take(300).inputs)
    handle.remove()
    return torch.cat(seen).movedim(1, -1).flatten(0, 2)


def test_hints_that_do_not_fit_are_refused(model, rows):
    example = rows.inputs[:1]
    with pytest.raises(UnsupportedError, match="there is no layer 'conv7'"):
        Hints(model, copy.deepcopy(model), (("conv7", "conv1"),), example, 1.0, 0)
    with pytest.raises(UnsupportedError, match="sizes beside the channels"):
        Hints(model, copy.deepcopy(model), (("conv2", "fc1"),), example, 1.0, 0)


class Sequences(nn.Module):
    """(N, 5, 6) features of width ``wide``: of a dense layer (N, 5, C), or of a convolution (N, C, 5)."""

    def __init__(self, wide: int, *, convolution: bool) -> None:
        super().__init__()
        self.features = nn.Conv1d(6, wide, 1) if convolution else nn.Linear(6, wide)
        self.convolution = convolution
        self.dense = nn.Linear(wide, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.features(x.transpose(1, 2)).transpose(1, 2) if self.convolution else self.features(x)
        return self.dense(found.mean(1))


@pytest.mark.parametrize("convolution", [False, True])
def test_hints_between_sequences_of_other_width(convolution):
    torch.manual_seed(0)
    teacher, student = (fx.symbolic_trace(Sequences(wide, convolution=convolution)) for wide in (8, 4))
    inputs = torch.randn(7, 5, 6)
    hints = Hints(teacher, student, (("features", "features"),), inputs[:1], 1.0, 0)
    student(inputs)
    hints(inputs).backward()
    assert all(p.grad is not None for p in hints.parameters)
    hints.close()


def test_hints_between_sequences_of_other_length_are_refused():
    teacher, student = (fx.symbolic_trace(Sequences(8, convolution=convolution)) for convolution in (False, True))
    with pytest.raises(UnsupportedError, match="sizes beside the channels"):
        Hints(teacher, student, (("features", "features"),), torch.randn(1, 5, 6), 1.0, 0)
