"""Each technique on a small trained network: what it promises, and what it must not undo."""

import copy

import numpy as np
import pytest
import torch
from torch import fx, nn

from edgewright.errors import UnsupportedError
from edgewright.optimize.cluster import cluster, codebook
from edgewright.optimize.compact_weights import compact_weights
from edgewright.optimize.decompose import decompose
from edgewright.optimize.distill import distill
from edgewright.optimize.fuse import fuse
from edgewright.optimize.prune import prune
from edgewright.optimize.prune_channels import multiply_accumulates, prune_channels
from edgewright.optimize.train_quantization import train_quantization
from edgewright.optimize.training import Rows, distillation_loss, fit, predictions
from edgewright.recipe import (
    Cluster,
    CompactWeights,
    Decompose,
    Distill,
    Prune,
    PruneChannels,
    Training,
    TrainQuantization,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*pruning.*:UserWarning")

CLASSES = 4
SHORT = Training(epochs=6, batch_size=64, learning_rate=3e-3)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 24, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.flat = nn.Flatten()
        self.fc1 = nn.Linear(96, 48)
        self.fc2 = nn.Linear(48, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv1(x)))
        x = torch.relu(self.conv2(x))
        return self.fc2(torch.relu(self.fc1(self.flat(self.pool(x)))))


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Where a bright blob lies in a noisy 8 x 8 image: which quarter."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, 1200)
    x = rng.normal(0, 0.5, (1200, 1, 8, 8))
    for image, quarter in zip(x[:, 0], y, strict=True):
        top, left = 4 * (quarter // 2) + rng.integers(0, 3), 4 * (quarter % 2) + rng.integers(0, 3)
        image[top : top + 2, left : left + 2] += 1.6
    return Rows(torch.tensor(x, dtype=torch.float32), torch.tensor(y))


@pytest.fixture(scope="module")
def model(rows: Rows) -> fx.GraphModule:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = fx.symbolic_trace(Net())
    fit(net, rows, SHORT)
    assert accuracy(net, rows) > 0.95
    return net.eval()


def accuracy(net: nn.Module, rows: Rows) -> float:
    return float((predictions(net, rows.inputs).argmax(1) == rows.targets).float().mean())


def density(net: nn.Module) -> float:
    weights = torch.cat([p.flatten() for n, p in net.named_parameters() if n.endswith("weight") and "norm" not in n])
    return float((weights != 0).float().mean())


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_prune_reaches_its_sparsity_and_recovers(model, rows, scope):
    pruned = prune(model, Prune(sparsity=0.8, scope=scope, training=SHORT), rows)
    assert density(pruned) == pytest.approx(0.2, abs=0.01)
    assert accuracy(pruned, rows) > accuracy(model, rows) - 0.05


def test_prune_without_training_zeroes_the_smallest_and_touches_no_other(model):
    pruned = prune(model, Prune(sparsity=0.5, scope="layer", training=None), None)
    before, after = model.fc1.weight.detach(), pruned.fc1.weight.detach()
    assert torch.equal(after[after != 0], before[after != 0])
    assert before[after == 0].abs().max() <= before[after != 0].abs().min()
    assert not torch.signbit(after[after == 0]).any()


def test_prune_two_of_four_keeps_two_of_every_four_inputs(model):
    pruned = prune(model, Prune(scope="2:4", training=None), None)
    groups = (pruned.fc1.weight != 0).reshape(48, -1, 4).sum(2)
    assert groups.max() == 2


def test_training_keeps_what_is_zero_at_zero(model, rows):
    pruned = prune(model, Prune(sparsity=0.7, training=None), None)
    zeros = pruned.fc1.weight == 0
    fit(pruned, rows, Training(epochs=1))
    assert (pruned.fc1.weight[zeros] == 0).all()


def test_the_default_scope_needs_rows_to_train(model):
    with pytest.raises(UnsupportedError, match="training rows"):
        prune(model, Prune(), None)


def test_train_quantization_lands_exactly_on_a_grid_and_keeps_zeros(model, rows):
    pruned = prune(model, Prune(sparsity=0.7, training=SHORT), rows)
    quantized = train_quantization(pruned, TrainQuantization(levels=3, training=SHORT), rows)
    for name in ("conv1", "conv2", "fc1", "fc2"):
        weight = quantized.get_submodule(name).weight.detach()
        assert len(torch.unique(weight)) <= 7
        assert (weight[pruned.get_submodule(name).weight == 0] == 0).all()
        sizes = torch.unique(weight.abs())[1:]
        assert any(torch.equal(torch.round(weight / s) * s, weight) for s in (sizes[0], sizes[0] / 2, sizes[0] / 3))
    assert accuracy(quantized, rows) > accuracy(model, rows) - 0.05


@pytest.mark.parametrize("start", ["optimal", "linear", "density", "random"])
def test_cluster_leaves_few_values_and_keeps_zeros(model, start):
    pruned = prune(model, Prune(sparsity=0.5, scope="layer", training=None), None)
    clustered = cluster(pruned, Cluster(clusters=8, start=start), None)
    weight = clustered.fc1.weight.detach()
    assert len(torch.unique(weight)) <= 8
    assert torch.equal(weight == 0, pruned.fc1.weight == 0)


def test_cluster_of_the_whole_model_has_one_codebook(model):
    clustered = cluster(model, Cluster(clusters=12, scope="model"), None)
    weights = [clustered.get_submodule(n).weight.detach().flatten() for n in ("conv1", "conv2", "fc1", "fc2")]
    assert len(torch.unique(torch.cat(weights))) <= 12


def test_cluster_learns_its_shared_values(model, rows):
    params = Cluster(clusters=3, training=SHORT)
    untrained, trained = (
        cluster(model, params.model_copy(update={"training": None}), None),
        cluster(model, params, rows),
    )
    assert len(torch.unique(trained.fc1.weight)) <= 3
    assert accuracy(trained, rows) > accuracy(untrained, rows)


def test_codebook_is_optimal_where_it_can_be_checked():
    rng = np.random.default_rng(1)
    values = np.sort(rng.normal(size=14)).astype(np.float32)
    best = min(
        sum(float(((part - part.mean()) ** 2).sum()) for part in (values[:a], values[a:b], values[b:]))
        for a in range(1, 13)
        for b in range(a + 1, 14)
    )
    found = codebook(values, 3)
    got = float((np.abs(values[:, None] - found[None]).min(1) ** 2).sum())
    assert got == pytest.approx(best, rel=1e-5)


def test_compact_weights_needs_no_labels_and_beats_rounding_at_the_same_number_of_values(model, rows):
    compacted = compact_weights(model, CompactWeights(price=3e-7), rows.inputs)
    assert accuracy(compacted, rows) > accuracy(model, rows) - 0.03
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for name in ("conv1", "conv2", "fc1", "fc2"):
            weight, kept = rounded.get_submodule(name).weight, compacted.get_submodule(name).weight
            sizes = torch.unique(kept.abs())
            step = (sizes[1:] - sizes[:-1]).min()
            weight.copy_(torch.round(weight / step) * step)
    assert density(compacted) < 0.8 * density(rounded)


def test_compact_weights_spends_less_at_a_higher_price(model, rows):
    cheap, dear = (compact_weights(model, CompactWeights(price=p), rows.inputs) for p in (1e-8, 1e-5))
    assert density(dear) < density(cheap)


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


def test_distillation_leaves_the_teacher_alone(model, rows):
    before = copy.deepcopy(model.state_dict())
    distill(model, Distill(ratio=0, training=Training(epochs=1, distill=0.7)), rows)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("importance", ["magnitude", "taylor", "batchnorm"])
def test_prune_channels_removes_the_operations_it_says(model, rows, importance):
    params = PruneChannels(ratio=0.5, importance=importance, steps=2, training=Training(epochs=3, learning_rate=3e-3))
    narrow = prune_channels(model, params, rows)
    example = rows.inputs[:1]
    assert multiply_accumulates(narrow, example) <= 0.5 * multiply_accumulates(model, example)
    assert predictions(narrow, example).shape == (1, CLASSES)
    assert accuracy(narrow, rows) > accuracy(model, rows) - 0.08


def test_distill_derives_a_narrower_student(model, rows):
    student = distill(model, Distill(ratio=0.5, training=SHORT.model_copy(update={"distill": 0.7})), rows)
    assert sum(p.numel() for p in student.parameters()) < sum(p.numel() for p in model.parameters())
    assert accuracy(student, rows) > accuracy(model, rows) - 0.08


@pytest.mark.parametrize("convolution", ["channel", "spatial"])
def test_decompose_at_full_energy_changes_no_output(model, rows, convolution):
    low = copy.deepcopy(model)
    with torch.no_grad():  # weights of rank 2 can be split without loss
        low.fc1.weight.copy_(low.fc1.weight[:, :2] @ torch.randn(2, 96))
        a, b = torch.randn(24 * 3, 2), torch.randn(2, 16 * 3)
        low.conv2.weight.copy_((a @ b).reshape(24, 3, 16, 3).permute(0, 2, 3, 1))
    split = decompose(low, Decompose(energy=0.999999, convolution=convolution), None)
    assert "fc1_reduce" in dict(split.named_modules())
    assert multiply_accumulates(split, rows.inputs[:1]) < multiply_accumulates(low, rows.inputs[:1])
    expected, got = predictions(low, rows.inputs[:50]), predictions(split, rows.inputs[:50])
    assert torch.allclose(expected, got, atol=1e-3 * float(expected.abs().max()))


def test_decompose_that_would_cost_more_is_refused(model):
    with pytest.raises(UnsupportedError, match="rank"):
        decompose(model, Decompose(energy=1.0), None)


def test_fuse_folds_the_norm_and_changes_no_output(model, rows):
    fused = fuse(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    assert torch.allclose(predictions(model, rows.inputs[:50]), predictions(fused, rows.inputs[:50]), atol=1e-4)
