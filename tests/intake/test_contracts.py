"""One contract for every `Source`: the same data, the same shape of answers, the same words for what does not fit."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from edgewright.data import DataSpec
from edgewright.errors import EdgewrightError, InputError
from edgewright.intake.formats import detect_format
from edgewright.intake.opening import opened
from edgewright.intake.source import Source

pytestmark = pytest.mark.filterwarnings("ignore")
FEATURES, CLASSES, ROWS, HELD_OUT = 7, 3, 60, 21
MODULE = """
from torch import nn

def contract_network():
    return nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))
"""
KERAS = """
import sys, keras, numpy as np
folder = sys.argv[1]
keras.utils.set_random_seed(0)
x = keras.Input((7,))
model = keras.Model(x, keras.layers.Dense(3)(keras.layers.Dense(5, activation="relu")(x)))
model.save(f"{folder}/model.keras")
model.export(f"{folder}/saved_model", verbose=False)
rows = np.load(f"{folder}/data.npz")["x_test"]
np.save(f"{folder}/keras.npy", model.predict(rows, verbose=0))
"""


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 5), nn.ReLU(), nn.Linear(5, CLASSES)).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data with as many rows for each source, and one model of each kind."""
    made = tmp_path_factory.mktemp("sources")
    chance = np.random.default_rng(0)
    x = chance.normal(size=(ROWS, FEATURES)).astype(np.float32)
    y = x[:, :CLASSES].argmax(axis=1)
    np.savez(made / "data.npz", x_train=x[HELD_OUT:], y_train=y[HELD_OUT:], x_test=x[:HELD_OUT], y_test=y[:HELD_OUT])
    module, batch = network(), torch.export.Dim("batch")
    program = torch.export.export(module, (torch.zeros(2, FEATURES),), dynamic_shapes=({0: batch},))
    torch.export.save(program, made / "program.pt2")
    torch.jit.trace(module, torch.zeros(2, FEATURES)).save(made / "script.pt")
    torch.save(module.state_dict(), made / "weights.pt")
    (made / "contract_module.py").write_text(MODULE)
    (made / "factory.yaml").write_text(
        "factory: contract_module:contract_network\nweights: weights.pt\ninputs: {x: [7]}\n"
    )
    torch.onnx.export(
        module, (torch.zeros(2, FEATURES),), made / "graph.onnx", dynamic_shapes=({0: batch},), verbose=False
    )
    estimator = LogisticRegression(max_iter=500).fit(x[HELD_OUT:], y[HELD_OUT:])
    (made / "estimator.pkl").write_bytes(pickle.dumps(estimator))
    quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, "-c", KERAS, str(made)], check=True, capture_output=True, env=quiet)
    return made


class Made(NamedTuple):
    """The file, and the model's own answers (N, classes) to some rows, taken without this project."""

    file: Path
    answers: np.ndarray


FILES = ["program.pt2", "script.pt", "factory.yaml", "graph.onnx", "estimator.pkl", "model.keras", "saved_model"]


@pytest.fixture(params=FILES)
def made(request: pytest.FixtureRequest, folder: Path) -> Made:
    file, rows = folder / request.param, np.load(folder / "data.npz")["x_test"]
    if request.param == "estimator.pkl":
        return Made(file, pickle.loads(file.read_bytes()).predict_proba(rows))
    if request.param in {"model.keras", "saved_model"}:
        return Made(file, np.load(folder / "keras.npy"))
    with torch.no_grad():
        return Made(file, network()(torch.from_numpy(rows)).numpy())


def source_of(made: Made, data: Path | None = None) -> Source:
    return opened(made.file, detect_format(made.file), DataSpec(path=data or made.file.parent / "data.npz"))


class TestSource:
    """What `edgewright.intake.source.Source` promises."""

    def test_its_answers_are_the_model_s_own_one_array_an_output(self, made: Made) -> None:
        source = source_of(made)
        (scores,), predicted = source.answers()
        assert scores.dtype == np.float64
        np.testing.assert_allclose(scores.reshape(HELD_OUT, CLASSES), made.answers, atol=1e-5)
        assert predicted is not None
        assert predicted.dtype == np.int64
        np.testing.assert_array_equal(predicted, made.answers.argmax(axis=1))

    def test_tensors_have_names_and_a_free_batch(self, made: Made) -> None:
        source = source_of(made)
        assert [spec.shape for spec in source.inputs] == [(-1, FEATURES)]
        assert [spec.shape for spec in source.outputs] == [(-1, CLASSES)]
        assert all(spec.name for spec in (*source.inputs, *source.outputs))
        assert source.labels is not None
        assert len(source.labels) == CLASSES

    def test_rows_serve_once_and_the_held_out_ones_nothing_else(self, made: Made) -> None:
        samples = source_of(made).samples
        kinds = {name: set(getattr(samples.rows, name).tolist()) for name in ("train", "validation", "test")}
        assert len(kinds["test"]) == HELD_OUT
        assert not kinds["test"] & (kinds["train"] | kinds["validation"])
        assert not kinds["train"] & kinds["validation"]
        assert set(samples.rows.calibration.tolist()) <= kinds["train"]
        assert samples.known

    @pytest.mark.parametrize("split", ["calibration", "validation"])
    def test_answers_to_other_rows_are_as_many_as_these_or_none(self, made: Made, split) -> None:
        source = source_of(made)
        source.answers()
        found = source.answers_to(split)
        if found is not None:
            assert [len(one) for one in found] == [len(getattr(source.samples.rows, split))]

    def test_its_way_inside_answers_as_it_does_for_any_number_of_rows(self, made: Made) -> None:
        source = source_of(made)
        (scores,), _ = source.answers()
        rows = source.samples.inputs[source.inputs[0].name][source.samples.rows.test]
        graph = source.to_graph()
        if graph is None:
            exported = source.to_onnx("contract")
            assert [one.name for one in exported.graph.input] == [spec.name for spec in source.inputs]
            assert [one.name for one in exported.graph.output] == [spec.name for spec in source.outputs]
            session = onnxruntime.InferenceSession(exported.SerializeToString(), providers=["CPUExecutionProvider"])
            run: Callable[[np.ndarray], np.ndarray] = lambda x: session.run(None, {source.inputs[0].name: x})[0]  # noqa: E731
        else:
            run = lambda x: graph.eval()(torch.from_numpy(x)).detach().numpy()  # noqa: E731
        for count in (1, 2, HELD_OUT):
            np.testing.assert_allclose(run(rows[:count]), scores[:count], atol=1e-5)

    def test_rows_of_another_width_are_refused_in_one_line(self, made: Made, tmp_path: Path) -> None:
        wide = tmp_path / "wide.npz"
        np.savez(wide, x=np.zeros((ROWS, FEATURES + 2), np.float32), y=np.arange(ROWS) % CLASSES)
        with pytest.raises(InputError, match=rf"wide\.npz: .*{FEATURES + 2}.*{FEATURES}") as caught:
            source_of(made, wide).answers()
        assert "\n" not in str(caught.value)

    def test_a_file_cut_short_is_refused_in_one_line(self, made: Made, tmp_path: Path) -> None:
        if made.file.is_dir() or made.file.suffix == ".yaml":
            pytest.skip("no file of bytes")
        cut = tmp_path / made.file.name
        cut.write_bytes(made.file.read_bytes()[: made.file.stat().st_size // 2])
        with pytest.raises(EdgewrightError, match=made.file.stem) as caught:
            opened(cut, detect_format(cut), DataSpec(path=made.file.parent / "data.npz")).answers()
        assert "\n" not in str(caught.value)
