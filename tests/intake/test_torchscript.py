"""TorchScript archives come in."""

import pickle
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from edgewright.artifact import Format
from edgewright.data import DataSpec
from edgewright.errors import UntrustedModelError
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


def test_code_that_names_a_file_is_refused_before_it_is_loaded(tmp_path):
    torch.jit.save(torch.jit.script(Network().eval()), tmp_path / "m.pt")
    with zipfile.ZipFile(tmp_path / "m.pt") as archive, zipfile.ZipFile(tmp_path / "bad.pt", "w") as changed:
        for entry in archive.infolist():
            content = archive.read(entry)
            if entry.filename.endswith(".py") and b"def forward" in content:
                state = b"  def __setstate__(self, state: int) -> NoneType:\n"
                marked = state + b'    _0 = torch.save(state, "written")\n    return None\n  def forward'
                content = content.replace(b"  def forward", marked)
            changed.writestr(entry, content)
    with pytest.raises(UntrustedModelError, match=r"torch\.save, which names a file"):
        inspect_torchscript(tmp_path / "bad.pt")
    inspect_torchscript(tmp_path / "m.pt")


def test_a_plain_pickle_is_still_a_scikit_learn_model(tmp_path):
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"a": 1}))
    assert detect_format(tmp_path / "m.pkl") is Format.SKLEARN
