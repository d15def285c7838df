"""Several sizes of a free axis: a file of each."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgewright.package import read_bundle


class Texts(nn.Module):
    """Token ids of any length, told apart by whether low ones prevail."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(20, 4), nn.Linear(4, 2)
        with torch.no_grad():
            self.table.weight.zero_()
            self.table.weight[:10, 0], self.table.weight[10:, 1] = 1.0, 1.0
            self.last.weight.copy_(torch.tensor([[4.0, -4, 0, 0], [-4.0, 4, 0, 0]]))
            self.last.bias.zero_()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.last(self.table(ids).mean(1))


def test_each_size_is_released_as_a_model_of_its_own(tmp_path: Path, home: Path) -> None:
    chance = np.random.default_rng(0)
    y = np.arange(120) % 2
    ids = np.where(chance.random((120, 16)) < 0.95, chance.integers(0, 10, (120, 16)) + 10 * y[:, None], 5)
    np.savez(tmp_path / "texts.npz", x=ids, y=y)
    free = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=64)},)
    program = torch.export.export(Texts().eval(), (torch.zeros(2, 12, dtype=torch.int64),), dynamic_shapes=free)
    torch.export.save(program, tmp_path / "texts.pt2")
    line = ["deploy", str(tmp_path / "texts.pt2"), "--data", str(tmp_path / "texts.npz"), "--platform", "edge_device"]
    line += ["--recipe", "float32", "--shape", "ids=1,8|16", "--json", str(tmp_path / "all.json")]
    command = [sys.executable, "-m", "edgewright", *line, "--repository", str(tmp_path / "releases")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    short, whole = json.loads((tmp_path / "all.json").read_text())
    found = {read_bundle(Path(one["bundle"]["artifact"]["path"])).manifest.name: one for one in (short, whole)}
    assert set(found) == {"texts-8", "texts-16"}
    for name, one in found.items():
        manifest = read_bundle(Path(one["bundle"]["artifact"]["path"])).manifest
        assert manifest.inputs[0].shape == (-1, int(name.removeprefix("texts-")))
        assert one["report"]["candidate"]["accuracy"]["value"] > 0.95
    assert "were cut to (8,)" in " ".join(short["optimization"]["dataset"]["notes"])
    assert "were cut" not in " ".join(whole["optimization"]["dataset"]["notes"])
