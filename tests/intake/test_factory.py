import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edgewright.artifact import Format
from edgewright.data import DataSpec
from edgewright.errors import ConversionError, InputError, UntrustedModelError
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


IDS = """
import torch
from torch import nn

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(50, 8), nn.Linear(8, 3)

    def forward(self, ids, mask):
        hidden = self.words(ids).masked_fill(~mask.unsqueeze(-1), 0)
        return self.head(hidden.sum(1) / mask.sum(1, keepdim=True))

class Numbers(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        return self.head(x)
"""


@pytest.fixture
def sequences(tmp_path):
    """Ids and a mask of 12 words a row."""
    (tmp_path / "words_of_test.py").write_text(IDS)
    rng = np.random.default_rng(0)
    ids, mask = rng.integers(0, 50, (60, 12)), rng.random((60, 12)) < 0.7
    mask[:, 0] = True
    np.savez(tmp_path / "d.npz", **{"x.ids": ids, "x.mask": mask, "x": ids, "y": np.arange(60) % 3})

    def write(inputs, make="Words"):
        (tmp_path / "m.yaml").write_text(f"factory: words_of_test:{make}\ninputs: {inputs}\n")
        return tmp_path / "m.yaml"

    return write, tmp_path / "d.npz"


def kinds(intake):
    return [(t.name, t.dtype, t.shape) for t in intake.model.inputs]


@pytest.mark.parametrize(
    "inputs",
    [
        "{ids: [12], mask: [12]}",
        "{words: [12], valid: [12]}",
        "{ids: {shape: [12], dtype: int64}, mask: {shape: [12], dtype: bool}}",
        "{ids: {shape: [12]}, mask: {shape: [12], dtype: bool}}",
    ],
)
def test_whole_numbers_and_masks_go_in_as_such(sequences, inputs, tmp_path):
    write, data = sequences
    intake = child.take_in(write(inputs), DataSpec(path=data), tmp_path / "s", "m")
    assert kinds(intake) == [("ids", "int64", (-1, 12)), ("mask", "bool", (-1, 12))]
    assert intake.model.graph is not None
    said = any("inputs are taken as the data has them" in note for note in intake.model.notes)
    assert said is ("int64" not in inputs)


def test_a_dtype_that_is_written_counts_more_than_the_data(sequences, tmp_path):
    write, data = sequences
    path = write("{ids: {shape: [12], dtype: int32}, mask: {shape: [12], dtype: bool}}")
    intake = child.take_in(path, DataSpec(path=data), tmp_path / "s", "m")
    assert kinds(intake)[0] == ("ids", "int32", (-1, 12))


def test_whole_numbers_go_into_a_layer_of_real_ones_and_it_is_said(sequences, tmp_path):
    write, data = sequences
    intake = child.take_in(write("{x: [12]}", "Numbers"), DataSpec(path=data), tmp_path / "s", "m")
    assert kinds(intake) == [("x", "float32", (-1, 12))]
    assert any("x (int64) goes in as float32" in note for note in intake.model.notes)
    scaled = child.take_in(write("{x: [12]}", "Numbers"), DataSpec(path=data, scale=0.02), tmp_path / "s2", "m")
    assert not any("float32" in note for note in scaled.model.notes)


def test_a_dtype_that_the_module_does_not_take_says_what_to_write(sequences):
    write, data = sequences
    path = write("{ids: {shape: [12], dtype: float32}, mask: {shape: [12], dtype: bool}}")
    words = r"torch\.export: .*given were ids \(float32\), mask \(bool\).*`inputs: \{ids: \{shape: \[\.\.\.\], dtype"
    with pytest.raises(ConversionError, match=words):
        child.check(path, DataSpec(path=data))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("factory: f:make\n", r"key 'inputs' is missing: write `factory: .*`inputs: \{x: \[3, 224, 224\]\}`"),
        ("factory: f:make\ninputs: [3, 4]\n", r"'inputs' = \[3, 4\] names no input: write `factory: "),
        ("factory: f:make\ninputs: {}\n", r"names no input: write"),
        ("model:\n  factory: f:make\n  inputs: {x: [3]}\n", r"'factory' stands under 'model': write `factory: "),
        (
            "factory: f:make\ninputs: {x: 3}\n",
            r"inputs\.x = 3: write the shape of a row.*\{shape: \[128\], dtype: int64\}",
        ),
        ("factory: f:make\ninputs: {x: [-1, 3]}\n", r"inputs\.x = \[-1, 3\]: write the shape of a row"),
        ("factory: f:make\ninputs: {x: {shape: [3], dtype: long}}\n", r"inputs\.x\.dtype = 'long': .*'int64'"),
        (
            "factory: f:make\ninputs: {x: {shape: [3], dtyp: bool}}\n",
            r"unknown key 'inputs\.x\.dtyp'; did you mean 'dtype'",
        ),
        ("factory: f:make\ninputs: {x: {dtype: bool}}\n", r"key 'inputs\.x\.shape' is missing"),
    ],
)
def test_a_wrong_form_says_what_to_write(tmp_path, digits_npz, text, words):
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(InputError, match=words) as error:
        child.check(tmp_path / "m.yaml", DataSpec(path=digits_npz))
    assert "\n" not in str(error.value)
