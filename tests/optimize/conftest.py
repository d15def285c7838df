"""One trained network for all tests of the techniques."""

import pytest
import torch
from torch import fx

from edgewright.optimize.training import TrainingRows, fit
from tests.optimize.networks import SHORT, Net, accuracy, blobs


@pytest.fixture(scope="session")
def rows() -> TrainingRows:
    """Training rows."""
    return blobs(1200)


@pytest.fixture(scope="session")
def model(rows: TrainingRows) -> fx.GraphModule:
    """Trained, in eval mode. Techniques return copies, so tests may share it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = fx.symbolic_trace(Net())
    fit(net, rows, SHORT)
    assert accuracy(net, rows) > 0.95
    return net.eval()
