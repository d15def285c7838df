"""TorchScript archives come in."""

import pickle
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from edgewright.artifact import Format
from edgewright.data import DataSpec
from edgewright.errors import InputError, UnsupportedError, UntrustedModelError
from edgewright.intake.formats import detect_format
from edgewright.intake.inside import brought_inside
from edgewright.intake.torchscript_guard import inspect_torchscript
from edgewright.intake.torchscript_source import TorchScriptSource

pytestmark = pytest.mark.filterwarnings("ignore")


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Linear(4 * 20, 3)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).flatten(1))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(9, 3), nn.Linear(5, 2)

    def forward(self, features, word):
        return self.head(torch.cat([features, self.words(word)], 1))


def data_for(tmp_path, **inputs):
    rng = np.random.default_rng(0)
    arrays = {}
    for split in ("train", "test"):
        for name, make in inputs.items():
            arrays[f"x_{split}" if len(inputs) == 1 else f"x_{split}.{name}"] = make(rng, 12)
        arrays[f"y_{split}"] = rng.integers(0, 2, 12)
    np.savez(tmp_path / "d.npz", **arrays)
    return DataSpec(path=tmp_path / "d.npz")


def images(rng, rows):
    return rng.random((rows, 3, 9, 7), np.float32)


@pytest.mark.parametrize("way", ["traced", "scripted", "frozen"])
def test_an_archive_comes_in_as_a_graph(tmp_path, way):
    module = Network().eval()
    if way == "traced":
        script = torch.jit.trace(module, torch.rand(1, 3, 9, 7))
    else:
        script = torch.jit.script(module)
        script = torch.jit.freeze(script) if way == "frozen" else script
    torch.jit.save(script, tmp_path / "m.pt")
    assert detect_format(tmp_path / "m.pt") is Format.TORCHSCRIPT
    source = TorchScriptSource(tmp_path / "m.pt", data_for(tmp_path, x=images))
    answers, _ = source.answers()
    inside = brought_inside(source, "m", answers)
    assert inside.graph is not None, inside.refusal
    assert source.inputs[0].shape == (-1, 3, 9, 7)
    with torch.no_grad():
        expected = module(torch.from_numpy(source.inputs_of("test")[0])).numpy()
        found = inside.graph(torch.from_numpy(source.inputs_of("test")[0])).numpy()
    np.testing.assert_allclose(answers[0], expected, atol=1e-5)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_several_inputs_are_those_of_forward(tmp_path):
    torch.jit.save(torch.jit.script(TwoInputs().eval()), tmp_path / "m.pt")
    data = data_for(tmp_path, features=lambda r, n: r.random((n, 2), np.float32), word=lambda r, n: r.integers(0, 9, n))
    source = TorchScriptSource(tmp_path / "m.pt", data)
    assert [(t.dtype, t.shape[1:]) for t in source.inputs] == [("float32", (2,)), ("int64", ())]


class AtARate(nn.Module):
    def __init__(self):
        super().__init__()
        self.slow, self.fast = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x, rate: int, gain: float = 2.0, is_shifted: bool = False, extra: int | None = None):
        x = self.slow(x) if rate == 8000 else self.fast(x)
        if is_shifted:
            x = x + 1
        if extra is not None:
            x = x + extra
        return x * gain


def at_a_rate(tmp_path, **numbers):
    module = AtARate().eval()
    torch.jit.save(torch.jit.script(module), tmp_path / "m.pt")
    rows = np.random.default_rng(0).random((12, 4), np.float32)
    sides = ("x_train", "x_test")
    arrays = {f"{side}.x": rows for side in sides} | {f"{s}.{n}": v for n, v in numbers.items() for s in sides}
    np.savez(tmp_path / "d.npz", y_train=rows[:, 0] > 0, y_test=rows[:, 0] > 0, **arrays)
    return module, TorchScriptSource(tmp_path / "m.pt", DataSpec(path=tmp_path / "d.npz"))


@pytest.mark.parametrize(
    "numbers",
    [{"rate": 8000}, {"rate": np.full(12, 16_000), "gain": 0.5}, {"rate": 8000, "is_shifted": True, "extra": 3}],
)
def test_numbers_are_fixed_at_the_value_of_the_data_or_their_default(tmp_path, numbers):
    module, source = at_a_rate(tmp_path, **numbers)
    assert [t.name for t in source.inputs] == ["x"]
    answers, _ = source.answers()
    given = {name: np.ravel(value)[0].item() for name, value in numbers.items()}
    rows = torch.from_numpy(source.inputs_of("test")[0])
    with torch.no_grad():
        np.testing.assert_allclose(answers[0], module(rows, **given).numpy(), atol=1e-6)
    inside = brought_inside(source, "m", answers)
    assert inside.graph is not None, inside.refusal
    said = [note for note in source.notes if "single number" in note]
    assert f"input 'rate' is a single number and was fixed at {given['rate']}, its value in all of the data" in said
    assert ("input 'gain' is a single number and was fixed at 2.0, its default" in said) is ("gain" not in given)
    assert any("'extra'" in note for note in said) is ("extra" in given)


def test_a_number_that_neither_data_nor_default_gives_is_asked_for(tmp_path):
    with pytest.raises(InputError, match=r"input 'rate' is a single number.*add an array 'x\.rate'"):
        at_a_rate(tmp_path)


def test_a_state_that_forward_keeps_is_refused_by_name(tmp_path):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen, self.rate = torch.zeros(0), 0

        def forward(self, x, rate: int):
            if self.rate != rate:
                self.seen = torch.zeros(2)
            self.rate = rate
            self.seen = self.seen + x.sum(0)
            return x + self.seen

    torch.jit.save(torch.jit.script(Counting().eval()), tmp_path / "m.pt")
    data = data_for(tmp_path, x=lambda r, n: r.random((n, 2), np.float32), rate=lambda _, n: np.full(n, 8000))
    with pytest.raises(UnsupportedError, match=r"keeps a state of its own \(it writes rate, seen\)"):
        TorchScriptSource(tmp_path / "m.pt", data)


def test_what_torch_cannot_export_anew_says_how_to(tmp_path):
    class Growing(nn.Module):
        def forward(self, x):
            found = torch.jit.annotate(list[torch.Tensor], [])
            while x.sum() < 10:
                x = x * 2
                found.append(x)
            return torch.stack(found)

    torch.jit.save(torch.jit.script(Growing()), tmp_path / "m.pt")
    with pytest.raises(Exception, match=r"torch\.export\.save\(torch\.export\.export"):
        TorchScriptSource(tmp_path / "m.pt", data_for(tmp_path, x=lambda r, n: r.random((n, 2), np.float32)))


def with_code(folder, line):
    """An archive that runs a line when it is loaded."""
    torch.jit.save(torch.jit.script(Network().eval()), folder / "m.pt")
    with zipfile.ZipFile(folder / "m.pt") as archive, zipfile.ZipFile(folder / "bad.pt", "w") as changed:
        for entry in archive.infolist():
            content = archive.read(entry)
            if entry.filename.endswith(".py") and b"def forward" in content:
                state = b"  def __setstate__(self, state: int) -> NoneType:\n"
                marked = state + f"    {line}\n    return None\n  def forward".encode()
                content = content.replace(b"  def forward", marked)
            changed.writestr(entry, content)
    return folder / "bad.pt"


@pytest.mark.parametrize(
    "call",
    [
        'torch.save(state, "written")',
        'ops.aten.save(state, "written")',
        'torch.from_file("read")',
        "torch._reshape_alias(state, [9], [9])",
        "ops.aten._sparse_coo_tensor_unsafe(state, state, [9])",
    ],
)
def test_code_that_names_a_file_or_memory_is_refused_before_it_is_loaded(tmp_path, call):
    name = call.partition("(")[0]
    with pytest.raises(UntrustedModelError, match=rf"{name}, which names a file, or memory"):
        inspect_torchscript(with_code(tmp_path, f"_0 = {call}"))
    inspect_torchscript(tmp_path / "m.pt")


PARSED = 900
"""As deep as Python's parser goes, or nearly."""


@pytest.mark.parametrize("depth", [500, PARSED, 100_000])
def test_code_of_deep_names_is_looked_at_or_damaged(tmp_path, depth):
    path = with_code(tmp_path, f"_0 = a{'.b' * depth}")
    if depth <= PARSED:
        inspect_torchscript(path)
    # Behind a deep name, another is still found.
    kind, words = (UntrustedModelError, "which names a file") if depth <= PARSED else (InputError, "is not code")
    with pytest.raises(kind, match=words):
        inspect_torchscript(with_code(tmp_path, f"_0 = a{'.b' * depth}, torch.save(state, 'written')"))


def test_a_plain_pickle_is_still_a_scikit_learn_model(tmp_path):
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"a": 1}))
    assert detect_format(tmp_path / "m.pkl") is Format.SKLEARN
