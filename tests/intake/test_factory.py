import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edgewright.artifact import Format
from edgewright.data import DataSpec
from edgewright.errors import InputError, UntrustedModelError
from edgewright.intake import child, detect_format, torch_graph

pytestmark = pytest.mark.filterwarnings("ignore")

CODE = """
from torch import nn

def small_network():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))

def a_number():
    return 7
"""


@pytest.fixture
def described(tmp_path):
    (tmp_path / "factory_of_test.py").write_text(CODE)
    scope = {}
    exec(CODE, scope)  # noqa: S102 - the text above
    torch.manual_seed(0)
    module = scope["small_network"]()
    module(torch.rand(8, 1, 8, 8))
    save_file(module.state_dict(), tmp_path / "weights.safetensors")
    torch.save(module.state_dict(), tmp_path / "weights.pt")

    def write(factory="factory_of_test:small_network", weights="weights.safetensors", more=""):
        path = tmp_path / "model.yaml"
        path.write_text(f"factory: {factory}\nweights: {weights}\ninputs: {{image: [1, 8, 8]}}\n{more}")
        return path

    return module.eval(), write


@pytest.mark.parametrize("weights", ["weights.safetensors", "weights.pt"])
def test_a_module_of_the_users_own_keeps_its_batch_normalization(described, digits_npz, tmp_path, weights):
    module, write = described
    path = write(weights=weights)
    assert detect_format(path) is Format.TORCH_FACTORY
    spec = DataSpec(path=digits_npz, scale=1 / 16)
    intake = child.take_in(path, spec, tmp_path / "s", "m")
    graph = torch_graph.load(intake.model.graph.path)
    assert any(isinstance(layer, torch.nn.BatchNorm2d) for layer in graph.modules())
    x = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(graph(x), module(x))
    arrays = np.load(intake.dataset.artifact.path)
    assert intake.model.inputs[0].shape == (-1, 1, 8, 8)
    assert len(arrays["test.predicted"]) == intake.dataset.test_rows


def test_a_module_of_the_users_own_can_be_fine_tuned(described, digits_npz, tmp_path):
    """Its weights keep their names, and its BatchNorm gathers statistics as in the source."""
    module, write = described
    spec = DataSpec(path=digits_npz, scale=1 / 16)
    intake = child.take_in(write(), spec, tmp_path / "s", "m")
    graph = torch_graph.load(intake.model.graph.path)
    names = {name for name in module.state_dict() if "num_batches" not in name}
    assert names == {name for name in graph.state_dict() if "num_batches" not in name}
    graph.train(), module.train()
    x = torch.rand(16, 1, 8, 8)
    torch.testing.assert_close(graph(x), module(x), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(graph.state_dict()["1.running_var"], module.state_dict()["1.running_var"])
    graph(x).square().mean().backward()
    assert all(p.grad is not None for p in graph.parameters())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"factory": "os.system"}, "factory"),
        ({"factory": "nowhere_at_all:make"}, "cannot be called"),
        ({"factory": "factory_of_test:missing"}, "cannot be called"),
        ({"factory": "factory_of_test:a_number"}, "not a torch.nn.Module"),
        ({"weights": "nothing.safetensors"}, "no such file"),
        ({"more": "wieghts: x\n"}, "unknown key 'wieghts'; did you mean 'weights'"),
    ],
)
def test_what_is_wrong_with_the_description_is_said_in_one_line(described, digits_npz, given, words):
    _, write = described
    with pytest.raises(InputError, match=words) as error:
        child.check(write(**given), DataSpec(path=digits_npz))
    assert "\n" not in str(error.value)


def test_weights_that_do_not_fit_are_refused(described, digits_npz, tmp_path):
    _, write = described
    save_file({"0.weight": torch.zeros(3)}, tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match="do not fit"):
        child.check(write(), DataSpec(path=digits_npz))


def test_pickled_weights_with_code_are_refused(described, digits_npz, tmp_path):
    class Hostile:
        def __reduce__(self):
            return (tmp_path.joinpath("proof").touch, ())

    _, write = described
    torch.save({"w": Hostile()}, tmp_path / "hostile.pt")
    with pytest.raises(UntrustedModelError):
        child.check(write(weights="hostile.pt"), DataSpec(path=digits_npz))
    assert not (tmp_path / "proof").exists()
