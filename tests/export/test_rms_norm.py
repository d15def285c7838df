"""RMSNorm on iOS, of activations beside which its epsilon counts; `export` itself judges the file's answers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgewright.artifact import Format, ModelTask, Precision
from edgewright.data import DataSpec
from edgewright.export import export
from edgewright.export.runs import outputs_of
from edgewright.intake import take_in
from edgewright.profile import Platform
from edgewright.store import Store

pytestmark = pytest.mark.filterwarnings("ignore")


class Norms(nn.Module):
    """With an epsilon, with torch's own, and with a weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.RMSNorm(8, eps=1e-6), nn.RMSNorm(8, elementwise_affine=False)
        self.first.weight.data.uniform_(0.5, 2)

    def forward(self, x):
        return self.first(x) + self.second(x * 0.1)


def test_epsilon_counts_beside_small_activations(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Norms().eval()
    rows = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    rows *= np.logspace(-4, 2, 60, dtype=np.float32)[:, None]
    rows[7] = 0
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(network, (torch.from_numpy(rows[:2]),), dynamic_shapes=batch)
    torch.export.save(program, tmp_path / "m.pt2")
    np.savez(tmp_path / "d.npz", x=rows)
    store = Store(tmp_path / "store")
    intake = take_in(tmp_path / "m.pt2", DataSpec(path=tmp_path / "d.npz", task=ModelTask.NONE), store)
    with torch.no_grad():
        expected = network(torch.from_numpy(rows)).numpy()
    for precision, allowed in ((Precision.FLOAT32, 1e-5), (Precision.FLOAT16, 5e-3)):
        made = export(intake.model, intake.dataset, Platform.IOS, precision, store)
        found = outputs_of(made.artifact.path, Format.MLPACKAGE, {"x": rows}, [made.outputs[0].name])
        np.testing.assert_allclose(found[made.outputs[0].name], expected, atol=allowed * np.abs(expected).max())
