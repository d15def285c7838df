"""A large constant that is one of several which an operator joins, as the class token before an image's patches."""

import numpy as np
import torch
from torch import nn

from edgewright.artifact import Precision
from edgewright.export import export
from edgewright.export.stored import describe
from edgewright.profile import Platform
from edgewright.recipe import Quantize
from tests.export.test_scaling import through_the_door


class Tokens(nn.Module):
    """A class token of 300 numbers beside five patches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.token = nn.Parameter(torch.randn(1, 1, 300))
        self.first, self.second = nn.Linear(300, 20), nn.Linear(20, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        return self.second(self.first(tokens).relu().mean(1))


def test_a_class_token_comes_along_to_ios(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 5, 300)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(40) % 16)
    free = ({0: torch.export.Dim("n")},)
    torch.export.save(
        torch.export.export(Tokens().eval(), (torch.zeros(2, 5, 300),), dynamic_shapes=free), tmp_path / "m.pt2"
    )
    intake, store = through_the_door(tmp_path, tmp_path / "m.pt2", tmp_path / "d.npz")
    given = intake.model, intake.dataset, Platform.IOS
    kept = export(*given, Precision.INT8, store, quantization=Quantize(float_layers=("second",)))
    in_eight_bits = [w.elements for w in describe(kept.artifact.path).weights if "int8" in w.dtype]
    assert sorted(in_eight_bits) == [300, 300 * 20]  # the token, and the first layer; the second stays


def test_small_weights_stay_where_they_are_few(tmp_path):
    module = nn.Sequential(nn.Conv2d(64, 64, 3, groups=64), nn.ReLU(), nn.Conv2d(64, 300, 1), nn.Flatten())
    x = np.random.default_rng(0).normal(size=(40, 64, 3, 3)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(40) % 3)
    free = ({0: torch.export.Dim("n")},)
    program = torch.export.export(module.eval(), (torch.zeros(2, 64, 3, 3),), dynamic_shapes=free)
    torch.export.save(program, tmp_path / "m.pt2")
    intake, store = through_the_door(tmp_path, tmp_path / "m.pt2", tmp_path / "d.npz")
    made = export(intake.model, intake.dataset, Platform.IOS, Precision.INT8, store)
    in_eight_bits = [w.elements for w in describe(made.artifact.path).weights if "int8" in w.dtype]
    assert in_eight_bits == [64 * 300]  # the depthwise kernels are 576 of 19,776 numbers
