"""An exported file beside a model that amplifies its own float32 rounding."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import fx, nn

from edgewright.artifact import Format
from edgewright.export import parity_check
from edgewright.export.declaration import File
from edgewright.export.parity_check import _compare, _Limits
from edgewright.export.runs import outputs_of
from edgewright.intake import torch_graph


class _Cancelling(nn.Module):
    """The last digits of its input are lost beside a large number."""

    def forward(self, x):
        return torch.sub(torch.add(x, 4096.0), 4096.0)


class _Plain(nn.Module):
    def forward(self, x):
        return torch.mul(x, 1.0)


@pytest.fixture
def compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What the comparison says of a file whose answers lie that far from the model's, and its notes."""

    def answer(model: nn.Module, off: float, limit: float = 1e-4):
        torch_graph.save(fx.symbolic_trace(model), tmp_path / "model.graph")

        def stray(path, form, rows, outputs):
            if form is Format.TORCH_GRAPH:
                return outputs_of(path, form, rows, outputs)
            return {"y": (rows["x"] * (1 + off)).astype(np.float32)}

        monkeypatch.setattr(parity_check, "outputs_of", stray)
        monkeypatch.setattr(parity_check, "_place", lambda *_: ("in no layer", None))
        rows = {"x": np.random.default_rng(5).uniform(-4, 4, (40, 6)).astype(np.float32)}
        files = File(tmp_path / "model.graph", Format.TORCH_GRAPH), File(tmp_path / "m.tflite", Format.TFLITE)
        notes, found, _ = _compare(*files, rows, ["y"], _Limits(limit, None), has_thresholds=False)
        return notes, found

    return answer


def test_within_three_times_the_model_s_own_rounding_the_file_is_sound_and_that_is_said(compared):
    (note,), found = compared(_Cancelling(), 1e-4)
    assert found is None
    assert note.startswith("output 'y' is off by 0.0001")
    assert "(limit 0.0001)" in note
    assert "; the model's own float32 rounding is 6.1e-05 against float64, so 0.00018 is allowed" in note


def test_the_same_distance_from_a_well_conditioned_model_is_a_defect(compared):
    notes, found = compared(_Plain(), 1.8e-4)
    assert not notes
    assert found is not None
    assert "own float32" not in found.said


def test_beyond_its_rounding_too_a_file_is_wrong_and_both_figures_are_said(compared):
    _, found = compared(_Cancelling(), 2e-3)
    assert found is not None
    assert "the model's own float32 rounding is" in found.said
    assert "is allowed; in no layer" in found.said


def test_a_limit_of_fewer_bits_knows_no_rounding_of_float32(compared):
    _, found = compared(_Cancelling(), 0.05, limit=1e-2)
    assert found is not None
    assert "rounding" not in found.said
