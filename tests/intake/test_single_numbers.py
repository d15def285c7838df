"""Inputs that are one number for all rows, and inputs whose rows lie on the second axis."""

import re

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from edgewright.artifact import ModelTask
from edgewright.data import DataSpec
from edgewright.errors import InputError, UnsupportedError
from edgewright.intake import child, torch_graph
from edgewright.intake.single_numbers import single_number

pytestmark = pytest.mark.filterwarnings("ignore")
RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(40, 6)).astype(np.float32)

AT_A_RATE = """
net (float[rows, 6] x, int64 rate) => (float[rows, 6] y) {
    slow = Equal (rate, eight)
    y = If (slow) <
        then_branch = slowly () => (float[rows, 6] a) { a = Mul (x, half) },
        else_branch = fast () => (float[rows, 6] b) { b = Sin (x) }
    >
}"""


def at_a_rate(folder):
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]>\n{AT_A_RATE}')
    constants = {"eight": np.array(8000), "half": np.array(0.5, np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


def taken(model, folder, **arrays):
    np.savez(folder / "d.npz", **arrays)
    return child.take_in(model, DataSpec(path=folder / "d.npz", task=ModelTask.NONE), folder / "s", "model")


def graph_answers(intake, *inputs):
    with torch.no_grad():
        found = torch_graph.load(intake.model.graph.path)(*map(torch.from_numpy, inputs))
    return [v.numpy() for v in (found if isinstance(found, tuple) else (found,))]


@pytest.mark.parametrize("rate", [np.array(16_000), np.full(40, 16_000), np.full((40, 1), 16_000.0)])
def test_a_number_is_fixed_at_the_value_of_the_data(tmp_path, rate):
    intake = taken(at_a_rate(tmp_path), tmp_path, **{"x.x": ROWS, "x.rate": rate})
    assert [(t.name, t.shape) for t in intake.model.inputs] == [("x", (-1, 6))]
    assert "input 'rate' is a single number and was fixed at 16000, its value in all of the data" in intake.model.notes
    np.testing.assert_allclose(graph_answers(intake, ROWS)[0], np.sin(ROWS), rtol=1e-6)


def test_the_other_value_takes_the_other_branch(tmp_path):
    intake = taken(at_a_rate(tmp_path), tmp_path, **{"x.x": ROWS, "x.rate": np.array(8000)})
    np.testing.assert_allclose(graph_answers(intake, ROWS)[0], ROWS / 2, rtol=1e-6)


def test_a_number_that_varies_between_rows_is_refused(tmp_path):
    rate = np.where(np.arange(40) < 3, 8000, 16_000)
    with pytest.raises(InputError, match=r"input 'rate' is a single number.* gives it 2 values \(8000, 16000\)"):
        taken(at_a_rate(tmp_path), tmp_path, **{"x.x": ROWS, "x.rate": rate})


def test_a_number_that_differs_between_the_splits_is_refused(tmp_path):
    arrays = {"x_train.x": ROWS, "x_train.rate": np.array(8000), "x_test.x": ROWS, "x_test.rate": np.array(16_000)}
    with pytest.raises(InputError, match="2 values"):
        taken(at_a_rate(tmp_path), tmp_path, **arrays)


def test_a_number_that_the_data_does_not_give_is_asked_for(tmp_path):
    with pytest.raises(InputError, match=re.escape("add an array 'x.rate'")):
        taken(at_a_rate(tmp_path), tmp_path, x=ROWS)


def test_a_number_that_the_type_cannot_hold_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"gives 0\.5, which int64 cannot hold"):
        taken(at_a_rate(tmp_path), tmp_path, **{"x.x": ROWS, "x.rate": np.array(0.5)})


def test_a_number_that_would_become_infinite_is_refused(tmp_path):
    np.savez(tmp_path / "d.npz", **{"x.rate": np.array(1e6)})
    with pytest.raises(InputError, match=r"gives 1e\+06, which float16 cannot hold"):
        single_number(DataSpec(path=tmp_path / "d.npz"), "rate", "float16", tmp_path / "m.onnx")


def test_a_vector_is_not_one_number(tmp_path):
    with pytest.raises(InputError, match=r"shape \(40, 2\).* expected one number, or one for each row"):
        taken(at_a_rate(tmp_path), tmp_path, **{"x.x": ROWS, "x.rate": np.ones((40, 2))})


WITH_STATE = """
net (float[rows, 6] x, float[2, STATE, 3] state, float[rows, 1] gain) => (float[rows, 3] y, float[a, b, c] new_state) {
    kept = ReduceSum <keepdims = 0> (state, first)
    seen = MatMul (x, weight)
    y = Add (seen, kept)
    strong = Mul (state, gain)
    new_state = Tanh (strong)
}"""


@pytest.mark.parametrize("size", ["rows", "1"])
def test_a_state_comes_in_as_rows(tmp_path, size):
    """Where the exporter fixed the batch at 1 as well: it is freed afterwards."""
    text = WITH_STATE.replace("STATE", size)
    text = text if size == "rows" else text.replace("rows", "1")
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]>\n{text}')
    weight, states = RANDOM.normal(size=(6, 3)).astype(np.float32), RANDOM.normal(size=(40, 2, 3)).astype(np.float32)
    gain = RANDOM.normal(size=(40, 1)).astype(np.float32)
    for name, value in {"weight": weight, "first": np.array([0])}.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    onnx.save(model, tmp_path / "m.onnx")
    intake = taken(tmp_path / "m.onnx", tmp_path, **{"x.x": ROWS, "x.state": states, "x.gain": gain})
    shapes = {t.name: t.shape for t in (*intake.model.inputs, *intake.model.outputs)}
    assert (shapes["state_"], shapes["y"]) == ((-1, 2, 3), (-1, 3))
    assert any("the rows of 'state_'" in note for note in intake.model.notes)
    found = graph_answers(intake, ROWS, states, gain)
    np.testing.assert_allclose(found[0], ROWS @ weight + states.sum(1), rtol=1e-4, atol=1e-5)
    assert shapes["new_state"] == (-1, 2, 3)
    np.testing.assert_allclose(found[1], np.tanh(states * gain[:, None]), rtol=1e-5)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(6, 4)

    def forward(self, x, rate):
        return self.line(x) * rate


def test_a_number_that_a_torch_program_takes_is_fixed(tmp_path):
    torch.manual_seed(0)
    net = Scaled().eval()
    rows = torch.from_numpy(ROWS)
    shapes = {"x": {0: torch.export.Dim("rows")}, "rate": {}}
    torch.export.save(
        torch.export.export(net, (rows[:2], torch.tensor(1.0)), dynamic_shapes=shapes), tmp_path / "m.pt2"
    )
    intake = taken(tmp_path / "m.pt2", tmp_path, **{"x.x": ROWS, "x.rate": np.full(40, 2.5)})
    assert [t.name for t in intake.model.inputs] == ["x"]
    assert any("'rate' is a single number and was fixed at 2.5" in note for note in intake.model.notes)
    with torch.no_grad():
        np.testing.assert_allclose(graph_answers(intake, ROWS)[0], net(rows, torch.tensor(2.5)).numpy(), rtol=1e-5)


class Repeated(nn.Module):
    """Arguments that are Python numbers: one that decides a branch, one with a default."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(6, 4)

    def forward(self, x, times: int, gain=0.5, is_shifted: bool | None = None):
        y = self.line(x) * gain
        for _ in range(times):
            y = torch.sin(y)
        return y + 1 if is_shifted else y


def repeated():
    torch.manual_seed(0)
    return Repeated().eval()


def factory(folder):
    path = folder / "m.yaml"
    path.write_text(f"factory: {__name__}:repeated\ninputs: {{x: [6]}}\n")
    return path


@pytest.mark.parametrize("numbers", [{"times": 3}, {"times": np.full(40, 2), "gain": 2.0, "is_shifted": True}])
def test_numbers_that_a_factorys_module_takes_are_fixed(tmp_path, numbers):
    intake = taken(factory(tmp_path), tmp_path, **{"x.x": ROWS, **{f"x.{n}": v for n, v in numbers.items()}})
    given = {name: np.ravel(value)[0].item() for name, value in numbers.items()}
    assert [t.name for t in intake.model.inputs] == ["x"]
    said = [note for note in intake.model.notes if "single number" in note]
    assert len(said) == len(numbers)
    assert any(f"'times' is a single number that the export fixed at {given['times']}" in note for note in said)
    with torch.no_grad():
        expected = repeated()(torch.from_numpy(ROWS), **given).numpy()
    np.testing.assert_allclose(graph_answers(intake, ROWS)[0], expected, rtol=1e-5, atol=1e-6)


def test_a_number_that_a_factorys_module_needs_is_asked_for(tmp_path):
    with pytest.raises(InputError, match=re.escape("add an array 'x.times'")):
        taken(factory(tmp_path), tmp_path, **{"x.x": ROWS})


def exported_number(folder, rate):
    rows, path = torch.from_numpy(ROWS[:2]), folder / "m.pt2"
    shapes = {"x": {0: torch.export.Dim("rows")}, "rate": rate}
    torch.export.save(torch.export.export(Scaled().eval(), (rows, 3), dynamic_shapes=shapes), path)
    return path


def test_a_number_that_the_export_fixed_is_said_and_no_other_is_taken(tmp_path):
    path = exported_number(tmp_path, None)
    intake = taken(path, tmp_path, **{"x.x": ROWS, "x.rate": np.array(3)})
    assert any("'rate' is a single number that the export fixed at 3" in note for note in intake.model.notes)
    with pytest.raises(InputError, match=r"exported for rate = 3 alone; .* gives 4: export the module again"):
        taken(path, tmp_path, **{"x.x": ROWS, "x.rate": np.array(4)})


def test_a_number_that_the_export_left_free_is_fixed_at_the_value_of_the_data(tmp_path):
    path = exported_number(tmp_path, torch.export.Dim.DYNAMIC)
    first, second = (taken(path, tmp_path, **{"x.x": ROWS, "x.rate": np.array(rate)}) for rate in (2, 6))
    np.testing.assert_allclose(3 * graph_answers(first, ROWS)[0], graph_answers(second, ROWS)[0], rtol=1e-5)


class Stateful(nn.Module):
    """A recurrent layer whose state (layers, N, hidden) is an input."""

    def __init__(self):
        super().__init__()
        self.layer = nn.GRU(6, 3, 2, batch_first=True)

    def forward(self, x, state):
        return self.layer(x, state)


def test_a_state_of_a_torch_program_with_its_rows_second_is_refused_with_what_to_write(tmp_path):
    rows = torch.export.Dim("rows")
    given, shapes = (torch.rand(4, 5, 6), torch.rand(2, 4, 3)), {"x": {0: rows}, "state": {1: rows}}
    torch.export.save(torch.export.export(Stateful().eval(), given, dynamic_shapes=shapes), tmp_path / "m.pt2")
    arrays = {"x.x": np.zeros((40, 5, 6), np.float32), "x.state": np.zeros((40, 2, 3), np.float32)}
    with pytest.raises(UnsupportedError, match=r"'state_' has them on the second: take it as \(N, 2, …\)"):
        taken(tmp_path / "m.pt2", tmp_path, **arrays)
