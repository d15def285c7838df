"""Techniques that train where the data has no answers, or the network several outputs."""

import pytest
import torch
from torch import nn

from edgewright.optimize.prune_channels import _accumulate_gradients
from edgewright.optimize.training import TrainingRows, has_several_outputs


class _Embedding(nn.Module):
    """Embeds in 6 numbers of length one; half of the hidden channels hardly reach them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.norm = nn.BatchNorm1d(16)
        self.second = nn.Linear(16, 6)
        with torch.no_grad():
            self.second.weight[:, 8:] *= 1e-3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 8) to (N, 6)."""
        return nn.functional.normalize(self.second(torch.relu(self.norm(self.first(x)))))


@pytest.fixture
def rows() -> TrainingRows:
    """64 rows without answers."""
    return TrainingRows(torch.randn(64, 8, generator=torch.Generator().manual_seed(1)), None)


def test_answers_of_one_length_have_gradients_too(rows):
    torch.manual_seed(0)
    network = _Embedding().eval()

    _accumulate_gradients(network, rows)

    moves = network.first.weight.grad.norm(dim=1)
    assert (moves[:8] > 1e-2).all()  # the sum of the squares, always one, would leave 1e-9
    assert (moves[8:] < 1e-3).all()


def test_how_many_outputs_there_are_is_asked_of_a_network_in_training_too(rows):
    network = _Embedding().train()

    assert not has_several_outputs(network, rows)
    assert network.training
