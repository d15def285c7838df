"""Functions whose plain formulas lose digits near zero or overflow far from it, on every platform."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn
from torch.nn import functional

from edgewright.artifact import ModelTask, Precision
from edgewright.data import DataSpec
from edgewright.errors import UnsupportedError
from edgewright.export import export
from edgewright.export.runs import outputs_of
from edgewright.export.special_functions import SPECIAL_FUNCTIONS
from edgewright.intake import take_in
from edgewright.profile import Platform
from edgewright.store import Store
from tests.export.end_to_end import exported_answers, largest_difference

pytestmark = pytest.mark.filterwarnings("ignore")
CHANCE = np.random.default_rng(0)
SIGNED = (CHANCE.choice([-1, 1], 4000) * 10 ** CHANCE.uniform(-20, 1, 4000)).astype(np.float32)
INSIDE = {"log1p": -0.999, "atanh": 0.999, "erfinv": 0.999}
OF_ONE = ("log1p", "expm1", "sinh", "asinh", "atanh", "softplus", "log_sigmoid", "erfinv")
IN_TORCH = {"softplus": functional.softplus, "log_sigmoid": functional.logsigmoid}


class Small(nn.Module):
    """Of numbers near zero, each answer has the size of its operand."""

    def forward(self, x):
        return torch.cat([f(x) for f in (torch.log1p, torch.expm1, torch.sinh, torch.asinh, torch.atanh)], 1)


class Far(nn.Module):
    def forward(self, x):
        sums = torch.logaddexp(x, -2 * x) + torch.logaddexp2(x, x + 3)
        return torch.cat([functional.logsigmoid(x), functional.log_softmax(x, 1), sums, functional.softplus(x)], 1)


class Rare(nn.Module):
    def forward(self, x):
        parts = [torch.fmod(x, 2.5), torch.fmod(-x, x.abs().flip(1) + 1), functional.softplus(x, 2.5, 7)]
        parts += [torch.asinh(x), torch.acosh(x.abs() + 1), torch.erfc(x / 20), torch.erfinv(torch.tanh(x) * 0.99)]
        parts += [torch.xlogy(x.clamp(min=0), x.abs()), functional.pad(x[:, None], (2, 3), mode="circular")[:, 0]]
        image = functional.pad(x.reshape(-1, 1, 2, 3), (1, 2, 1, 0), mode="circular")
        return torch.cat([*parts, image.flatten(1), torch.exp2(x / 20)], 1)


@pytest.mark.parametrize("name", OF_ONE)
def test_a_form_is_accurate_near_zero_and_far_from_it(name: str) -> None:
    x = torch.from_numpy(SIGNED)
    limit = INSIDE.get(name)
    if limit is not None:
        x = x[x > limit] if limit < 0 else x[x.abs() < limit]
    expected = IN_TORCH.get(name, getattr(torch, name, None))(x.double())
    found = SPECIAL_FUNCTIONS[f"aten.{name}.default"](x).double()
    assert float(((found - expected) / expected).abs().nan_to_num(0).max()) <= 5e-7


@pytest.mark.parametrize("name", ["log1p", "expm1", "asinh", "softplus", "log_sigmoid", "sinh"])
def test_a_form_is_the_functions_at_the_ends(name: str) -> None:
    x = torch.tensor([-1.0, 0.0, 200.0, 1e30, torch.inf, torch.nan] + [-torch.inf, -1e30] * (name != "log1p"))
    found = SPECIAL_FUNCTIONS[f"aten.{name}.default"](x)
    torch.testing.assert_close(found, IN_TORCH.get(name, getattr(torch, name, None))(x), equal_nan=True)


def test_sums_of_infinities_are_torchs() -> None:
    x, y = torch.tensor([-torch.inf, torch.inf, -torch.inf, 0.0]), torch.tensor([-torch.inf, torch.inf, 3.0, torch.inf])
    assert SPECIAL_FUNCTIONS["aten.logaddexp.default"](x, y).tolist() == torch.logaddexp(x, y).tolist()


@pytest.mark.parametrize("platform", Platform)
def test_small_numbers_keep_their_digits(platform: Platform, tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(16, 6)).astype(np.float32) * np.float32(1e-7)
    found, expected = exported_answers(Small(), rows, platform, Precision.FLOAT32, tmp_path)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_small_numbers_keep_their_digits_in_half_precision(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).uniform(1e-4, 1e-3, size=(16, 6)).astype(np.float32)
    found, expected = exported_answers(Small(), rows, Platform.IOS, Precision.FLOAT16, tmp_path)
    np.testing.assert_allclose(found, expected, rtol=3e-3)


@pytest.mark.parametrize("platform", Platform)
def test_large_numbers_do_not_overflow(platform: Platform, tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(16, 6)).astype(np.float32)
    rows[:8] *= 150
    found, expected = exported_answers(Far(), rows, platform, Precision.FLOAT32, tmp_path)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("platform", Platform)
def test_functions_that_converters_lack_come_in(platform: Platform, tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(16, 6)).astype(np.float32) * 5
    found, expected = exported_answers(Rare(), rows, platform, Precision.FLOAT32, tmp_path)
    assert found.shape == expected.shape
    assert largest_difference(found, expected) <= 2e-6


@pytest.mark.parametrize("platform", [Platform.IOS, Platform.ANDROID])
def test_operators_of_onnx_are_taken_likewise(platform: Platform, tmp_path: Path) -> None:
    kinds = {"Asinh": {}, "Acosh": {}, "Atanh": {}, "Sinh": {}, "Celu": {"alpha": 0.7}, "Softplus": {}}
    nodes = [helper.make_node("Tanh", ["x"], ["t"]), helper.make_node("Abs", ["x"], ["a"])]
    nodes += [helper.make_node("Add", ["a", "one"], ["above"]), helper.make_node("LogSoftmax", ["x"], ["LogSoftmax"])]
    given = {"Acosh": "above", "Atanh": "t"}
    nodes += [helper.make_node(kind, [given.get(kind, "x")], [kind], **named) for kind, named in kinds.items()]
    nodes.append(helper.make_node("Concat", [*kinds, "LogSoftmax"], ["y"], axis=1))
    entry, result = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", w]) for n, w in (("x", 6), ("y", 42))
    )
    one = helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])
    graph = helper.make_graph(nodes, "functions", [entry], [result], [one])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "m.onnx")
    rows = np.random.default_rng(1).normal(size=(16, 6)).astype(np.float32)
    rows[0, :2] = 5, -120
    answers = np.zeros(len(rows), np.float32)
    np.savez(tmp_path / "d.npz", x_train=rows, y_train=answers, x_test=rows, y_test=answers)
    store = Store(tmp_path / "store")
    taken = take_in(tmp_path / "m.onnx", DataSpec(path=tmp_path / "d.npz", task=ModelTask.NONE), store)
    made = export(taken.model, taken.dataset, platform, Precision.FLOAT32, store)
    found = outputs_of(made.artifact.path, made.artifact.format, {"x": rows}, ["y"])["y"]
    x = torch.from_numpy(rows)
    parts = [torch.asinh(x), torch.acosh(x.abs() + 1), torch.atanh(torch.tanh(x)), torch.sinh(x)]
    parts += [functional.celu(x, 0.7), functional.softplus(x), functional.log_softmax(x, 1)]
    rest = [part for i, part in enumerate(parts) if i not in {2, 3}]  # those overflow in the row that is far from zero
    expected = torch.cat(rest, 1).numpy()
    found = np.delete(found, np.arange(12, 24), axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-6)


def test_an_operation_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    class Largest(nn.Module):
        def forward(self, x):
            return torch.cummax(x, 1)[0]

    rows = np.random.default_rng(1).normal(size=(16, 6)).astype(np.float32)
    with pytest.raises(
        UnsupportedError, match=r"^ONNX has no operator for aten\.\w+, .*; write it in .* android and ios"
    ):
        exported_answers(Largest(), rows, Platform.EDGE_DEVICE, Precision.FLOAT32, tmp_path)


@pytest.mark.parametrize("platform", Platform)
def test_equal_numbers_are_sorted_by_their_place(platform: Platform, tmp_path: Path) -> None:
    class Order(nn.Module):
        def forward(self, x):
            return torch.argsort(x, stable=True).float() + x * 0

    rows = np.random.default_rng(1).integers(0, 3, size=(16, 6)).astype(np.float32)
    found, expected = exported_answers(Order(), rows, platform, Precision.FLOAT32, tmp_path)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("platform", Platform)
def test_angles_of_upright_directions_are_torchs(platform: Platform, tmp_path: Path) -> None:
    class Angle(nn.Module):
        def forward(self, x):
            return torch.atan2(x[:, :3], x[:, 3:])

    chance = np.random.default_rng(1)
    rows = chance.choice([-2, -0.5, -0.0, 0.0, 1], (64, 6)).astype(np.float32)
    rows[:, 3:] = chance.choice([-1, -0.0, 0.0, 1], (64, 3))
    found, expected = exported_answers(Angle(), rows, platform, Precision.FLOAT32, tmp_path)
    np.testing.assert_allclose(found, expected, atol=1e-6)
