"""Files of `torch.save` are told apart and answered with what to do; none of their code runs."""

import argparse
import re
import sys

import numpy as np
import pytest
import torch
from torch import nn

from edgewright.data import DataSpec
from edgewright.errors import InputError
from edgewright.intake.factory_source import FactorySource
from edgewright.intake.formats import detect_format
from edgewright.intake.torch_source import load_program

pytestmark = pytest.mark.filterwarnings("ignore")

NETWORK = """
import torch
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.drop, self.head = nn.Conv2d(3, 4, 3, 8), nn.Dropout(0.5), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.drop(torch.relu(self.conv(x))).mean((2, 3)))
"""


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A module whose class can be imported from the folder that it is saved in."""
    (tmp_path / "nets_of_test.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    import nets_of_test

    yield nets_of_test.Network()
    del sys.modules["nets_of_test"]


def said_of(path):
    with pytest.raises(InputError) as error:
        detect_format(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def lines_of(said):
    (lines,) = re.findall(r"`(import torch; [^`]*)`", said)
    return lines


def weights_data(folder):
    rng = np.random.default_rng(0)
    arrays = {f"x_{s}": rng.random((12, 3), np.float32) for s in ("train", "test")}
    np.savez(folder / "d.npz", **arrays, **{f"y_{s}": np.arange(12) % 2 for s in ("train", "test")})
    return DataSpec(path=folder / "d.npz")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("wrapped", [False, True], ids=["a module", "a checkpoint"])
def test_the_printed_lines_export_a_whole_module(network, tmp_path, old, wrapped):
    content = {"epoch": 3, "optimizer": {"lr": 0.1}, "model": network} if wrapped else network
    torch.save(content, tmp_path / "whole.pt", _use_new_zipfile_serialization=not old)
    said = said_of(tmp_path / "whole.pt")
    assert "nets_of_test.Network" in said
    assert ("a checkpoint that holds a whole module under 'model'" in said) is wrapped
    exec(lines_of(said), {})  # noqa: S102 - what is tested
    program = load_program(tmp_path / "whole.pt2")
    x = torch.rand(5, 3, 224, 224)
    torch.testing.assert_close(program.module()(x), network.eval()(x))


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_the_printed_lines_take_weights_out_of_a_checkpoint_with_objects(tmp_path, monkeypatch, old, flat):
    monkeypatch.chdir(tmp_path)
    state = nn.Linear(3, 2).state_dict()
    content = {"args": argparse.Namespace(lr=0.1), **(state if flat else {"model": state})}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not old)
    said = said_of(tmp_path / "w.pth")
    assert "holds more than tensors (argparse.Namespace)" in said
    assert "`weights: w_weights.pt`" in said
    exec(lines_of(said), {})  # noqa: S102 - what is tested
    torch.testing.assert_close(dict(torch.load(tmp_path / "w_weights.pt", weights_only=True)), dict(state))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "net.inner."])
def test_a_prefix_that_all_weights_share_is_left_off(tmp_path, prefix):
    (tmp_path / "linear_of_test.py").write_text("import torch\n\n\ndef make():\n    return torch.nn.Linear(3, 2)\n")
    module = nn.Linear(3, 2)
    torch.save({"state_dict": {prefix + k: v for k, v in module.state_dict().items()}}, tmp_path / "w.pt")
    (tmp_path / "m.yaml").write_text("factory: linear_of_test:make\nweights: w.pt\ninputs: {x: [3]}\n")
    source = FactorySource(tmp_path / "m.yaml", weights_data(tmp_path))
    answers, _ = source.answers()
    with torch.no_grad():
        np.testing.assert_allclose(answers[0], module(torch.from_numpy(source.inputs_of("test")[0])).numpy(), atol=1e-6)
    assert f"the weights' names begin with '{prefix}', which was left off" in source.notes
    other = {prefix + k: v for k, v in module.state_dict().items()} | {"loss.weight": torch.zeros(2)}
    torch.save({"state_dict": other}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="do not fit the module"):
        FactorySource(tmp_path / "m.yaml", weights_data(tmp_path))


def test_a_pickled_module_is_told_apart_and_none_of_it_runs(tmp_path):
    class Trap(nn.Module):
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    for old in (False, True):
        torch.save(Trap(), tmp_path / "m.pt", _use_new_zipfile_serialization=not old)
        with pytest.raises(InputError, match=r"whole module pickled.*weights_only=False.*torch\.export\.save\(program"):
            detect_format(tmp_path / "m.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("old", [False, True])
def test_a_state_dict_is_answered_with_the_file_to_write(tmp_path, old):
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "w.pt", _use_new_zipfile_serialization=not old)
    with pytest.raises(InputError, match=r"state dict.*w\.yaml.*factory:.*weights: w\.pt.*inputs:"):
        detect_format(tmp_path / "w.pt")


def test_a_checkpoint_holds_its_state_dict_under_a_name(tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text("import torch\n\n\ndef make():\n    return torch.nn.Linear(3, 2)\n")
    module = nn.Linear(3, 2)
    torch.save({"epoch": 3, "model_state_dict": module.state_dict(), "loss": 0.1}, tmp_path / "w.pt")
    (tmp_path / "m.yaml").write_text("factory: nets:make\nweights: w.pt\ninputs: {x: [3]}\n")
    source = FactorySource(tmp_path / "m.yaml", weights_data(tmp_path))
    answers, _ = source.answers()
    with torch.no_grad():
        np.testing.assert_allclose(answers[0], module(torch.from_numpy(source.inputs_of("test")[0])).numpy(), atol=1e-6)
    torch.save({"epoch": 3, "loss": 0.1}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="holds epoch, loss, and no state dict"):
        FactorySource(tmp_path / "m.yaml", weights_data(tmp_path))
