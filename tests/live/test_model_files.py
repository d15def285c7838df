"""Models in memory become files that come in as if their users had saved them."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import nn

from edgewright.artifact import ModelTask
from edgewright.data import load_data_spec
from edgewright.errors import ConversionError, InputError
from edgewright.intake import child, torch_graph
from edgewright.live import model_name, write_data, write_model
from tests.bundles import onnx_file

pytestmark = pytest.mark.filterwarnings("ignore")
CHANCE = np.random.default_rng(0)


def taken(model, data, folder: Path, **options):
    """Through intake, in this process."""
    files = folder / "files"
    files.mkdir()
    rows = write_data(data, files, **options)
    path = write_model(model, model_name(model), files, rows.examples)
    return child.take_in(path, load_data_spec(rows.path), folder / "store", "m")


class Mixed(nn.Module):
    """Ids and two numbers; dropout and BatchNorm show whether it was exported as it evaluates."""

    def __init__(self):
        super().__init__()
        self.words, self.norm, self.drop = nn.Embedding(11, 4), nn.BatchNorm1d(6), nn.Dropout(0.9)
        self.head = nn.Linear(6, 3)

    def forward(self, ids, numbers):
        """(N, 5) int64 and (N, 2) to (N, 3)."""
        return self.head(self.drop(self.norm(torch.cat([self.words(ids).mean(1), numbers], 1))))


def test_a_module_in_training_comes_in_as_it_evaluates_and_stays_in_training(tmp_path):
    torch.manual_seed(0)
    module = Mixed()
    module(torch.randint(0, 11, (64, 5)), torch.randn(64, 2))  # statistics of its own
    numbers, ids = CHANCE.normal(size=(40, 2)), CHANCE.integers(0, 11, (40, 5))

    found = taken(module, ({"numbers": numbers, "ids": ids}, np.arange(40) % 3), tmp_path)

    assert module.training
    graph, rows = torch_graph.load(found.model.graph.path), (torch.tensor(ids), torch.tensor(numbers).float())
    torch.testing.assert_close(graph(*rows), module.eval()(*rows))
    assert [spec.dtype for spec in found.model.inputs] == ["int64", "float32"]


def test_a_module_over_pixels_takes_them_as_real_numbers(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    pictures = CHANCE.integers(0, 256, (30, 3, 19, 23), dtype=np.uint8)

    found = taken(network, pictures, tmp_path, scale=1 / 255)

    assert found.model.task is ModelTask.NONE
    assert found.model.inputs[0].shape == (-1, 3, 19, 23)
    assert found.model.preprocessing.scale == pytest.approx(1 / 255)


def test_an_exported_program_and_a_script_come_in(tmp_path):
    network, batch = nn.Linear(6, 2).eval(), torch.export.Dim("batch")
    program = torch.export.export(network, (torch.zeros(2, 6),), dynamic_shapes=({0: batch},))
    rows = torch.randn(30, 6)
    for number, model in enumerate([program, torch.jit.script(network)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        graph = torch_graph.load(taken(model, rows, folder).model.graph.path)
        torch.testing.assert_close(graph(rows), network(rows))


def test_an_estimator_over_a_frame_comes_in_with_its_columns(tmp_path):
    frame = pd.DataFrame({"town": CHANCE.choice(["a", "b", None], 90), 7: CHANCE.normal(size=90)})
    sold = pd.Series(np.where((frame["town"] == "a") ^ (frame[7] > 0), "yes", "no"), name="sold")
    frame.columns = ["town", "area"]
    pipeline = make_pipeline(
        make_column_transformer((OneHotEncoder(), ["town"]), (StandardScaler(), ["area"])), LogisticRegression()
    )
    pipeline.fit(frame, sold)

    found = taken(pipeline, (frame, sold), tmp_path)

    assert (found.model.name, found.model.labels) == ("m", ("no", "yes"))
    assert [column.name for column in found.model.preprocessing.columns] == ["town", "area"]


def test_an_onnx_model_comes_in(tmp_path):
    onnx_file(tmp_path / "m.onnx", 4)
    model = onnx.load(tmp_path / "m.onnx")
    assert taken(model, CHANCE.normal(size=(40, 4)), tmp_path).model.task is ModelTask.NONE


def test_a_keras_model_is_written_by_keras(tmp_path):
    script = (
        "import sys, keras; from pathlib import Path; from edgewright.live import write_model\n"
        "model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)])\n"
        "print(write_model(model, 'net', Path(sys.argv[1])).name)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "net.keras"
    assert (tmp_path / "net.keras").stat().st_size > 1000


@pytest.mark.parametrize(
    ("model", "error", "said"),
    [
        (object(), InputError, r"model: found object; allowed: a path, a torch\.nn\.Module"),
        (nn.Linear(3, 2), ConversionError, r"model: torch\.export: .*given were rows of shape \('N', 4\)"),
        (Mixed(), InputError, "rows named x, but the model's forward takes ids, numbers"),
    ],
)
def test_what_cannot_come_in_is_said_in_one_line(model, error, said, tmp_path):
    rows = {"x": CHANCE.normal(size=(20, 4))} if isinstance(model, Mixed) else CHANCE.normal(size=(20, 4))
    with pytest.raises(error, match=said) as caught:
        write_model(model, "m", tmp_path, write_data(rows, tmp_path).examples)
    assert "\n" not in str(caught.value)


def test_an_estimator_that_cannot_be_pickled_is_named(tmp_path):
    model = LogisticRegression()
    model.hook = lambda: None
    with pytest.raises(InputError, match="a LogisticRegression that cannot be pickled"):
        write_model(model, "m", tmp_path)


def test_a_model_is_called_as_its_file_or_its_class():
    assert model_name("a/b/digits.onnx") == "digits"
    assert model_name(Mixed()) == "mixed"


def test_a_module_with_weights_that_its_forward_computed_comes_in(tmp_path):
    network = nn.Sequential(nn.utils.weight_norm(nn.Linear(6, 4)), nn.ReLU(), nn.Linear(4, 2))
    rows = torch.randn(30, 6)
    network(rows)  # leaves a tensor that deepcopy refuses

    graph = torch_graph.load(taken(network, rows, tmp_path).model.graph.path)

    torch.testing.assert_close(graph(rows), network(rows))
    network(rows).sum().backward()
    assert network[0].weight_g.grad is not None


class _Unsavable:
    """As far as its name is looked at, a model of Keras."""

    def save(self, path):
        raise NotImplementedError("a layer without get_config\nand more")


def test_what_cannot_be_copied_or_saved_is_said_in_one_line(tmp_path):
    network = nn.Linear(4, 2)
    network.lock = threading.Lock()
    examples = write_data(CHANCE.normal(size=(20, 4)), tmp_path).examples
    with pytest.raises(ConversionError, match=r"a Linear that cannot be copied: cannot pickle '_thread.lock' object; "):
        write_model(network, "m", tmp_path, examples)
    keras = type("Model", (_Unsavable,), {"__module__": "keras.src.models"})()
    with pytest.raises(ConversionError, match=r"a Model that cannot be saved: a layer without get_config$"):
        write_model(keras, "m", tmp_path)
