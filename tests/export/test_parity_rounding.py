"""An exported file beside a model that amplifies its own float32 rounding."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import fx, nn

from edgewright.artifact import Format
from edgewright.export import parity_check
from edgewright.export.declaration import File
from edgewright.export.parity_check import _compare, _judged, _Limits
from edgewright.export.runs import outputs_of
from edgewright.intake import torch_graph


class _Cancelling(nn.Module):
    """The last digits of its input are lost beside a large number."""

    def __init__(self, away=4096.0):
        super().__init__()
        self.away = away

    def forward(self, x):
        return torch.sub(torch.add(x, self.away), self.away)


class _Plain(nn.Module):
    def forward(self, x):
        return torch.mul(x, 1.0)


@pytest.fixture
def tolerances():
    """What each comparison allows another kernel."""
    return []


@pytest.fixture
def compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tolerances):
    """What the comparison says of a file whose answers lie that far from the true ones, and its notes; None: they are
    the model's own."""

    def answer(model: nn.Module, off: float | None, limit: float = 1e-4):
        torch_graph.save(fx.symbolic_trace(model), tmp_path / "model.graph")

        def stray(path, form, rows, outputs):
            if form is Format.TORCH_GRAPH or off is None:
                return outputs_of(tmp_path / "model.graph", Format.TORCH_GRAPH, rows, outputs)
            return {"y": (rows["x"] * (1 + off)).astype(np.float32)}

        monkeypatch.setattr(parity_check, "outputs_of", stray)
        monkeypatch.setattr(parity_check, "_place", lambda *_: ("in no layer", None))
        rows = {"x": np.random.default_rng(5).uniform(-4, 4, (40, 6)).astype(np.float32)}
        files = File(tmp_path / "model.graph", Format.TORCH_GRAPH), File(tmp_path / "m.tflite", Format.TFLITE)
        said = _compare(*files, rows, ["y"], _Limits(limit, None), has_thresholds=False)
        tolerances.append(said.tolerance)
        return said.notes, said.disagreement

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


def test_what_rounds_by_much_has_a_tolerance_though_the_file_agrees_here(compared, tolerances):
    """The kernels of this machine are those that the file was compared with; a device's are others."""
    notes, found = compared(_Cancelling(), None)
    assert (notes, found) == ([], None)
    compared(_Plain(), None)
    largest = np.abs(np.random.default_rng(5).uniform(-4, 4, (40, 6)).astype(np.float32)).max()
    assert tolerances == [{"y": pytest.approx(1.8e-4 * largest, rel=0.1)}, {}]


def test_what_rounds_by_more_than_a_limit_tells_is_said(compared, tolerances):
    (note,), found = compared(_Cancelling(65536.0), None)
    assert found is None
    assert tolerances == [{}]
    assert note.startswith("output 'y': the model's own float32 rounding is 0.00")
    assert "may refuse the golden vectors; scale its inputs" in note


def test_a_limit_of_fewer_bits_leaves_no_tolerance(compared, tolerances):
    compared(_Cancelling(), 1e-4, limit=1e-2)
    assert tolerances == [{}]


def test_an_output_that_follows_from_comparisons_is_told_by_its_agreement_in_fewer_bits():
    expected, found = np.zeros((40, 3), bool), np.zeros((40, 3), bool)
    off = np.zeros(40)
    assert _judged("high", expected, found, off, _Limits(None, 0.0), has_thresholds=False) == ("", False)
    off[:3] = 1.0
    said, is_told = _judged("high", expected, found, off, _Limits(None, 0.0), has_thresholds=False)
    assert is_told
    assert said == (
        "output 'high' of bool is the source's in 92.5% of 40 real rows: it follows from comparisons, which fewer bits"
        " turn"
    )
