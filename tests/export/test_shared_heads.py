"""Multi-query attention on Android: the file's answers are judged by `export` itself."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgewright.artifact import ModelTask, Precision
from edgewright.data import DataSpec
from edgewright.export import export
from edgewright.intake import take_in
from edgewright.profile import Platform
from edgewright.store import Store
from tests.export.shared_heads import SharedHeads

pytestmark = pytest.mark.filterwarnings("ignore")


def test_heads_may_share_their_keys_and_values(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = np.random.default_rng(0).normal(size=(40, 5, 8)).astype(np.float32)
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(SharedHeads().eval(), (torch.from_numpy(rows[:2]),), dynamic_shapes=batch)
    torch.export.save(program, tmp_path / "m.pt2")
    np.savez(tmp_path / "d.npz", x=rows)
    store = Store(tmp_path / "store")
    intake = take_in(tmp_path / "m.pt2", DataSpec(path=tmp_path / "d.npz", task=ModelTask.NONE), store)
    made = export(intake.model, intake.dataset, Platform.ANDROID, Precision.FLOAT32, store)
    assert made.artifact.size_bytes > 0
