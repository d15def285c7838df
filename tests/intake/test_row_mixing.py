"""A model whose answer to a row depends on the rows beside it is refused, whatever it comes from."""

import os
import pickle
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression
from torch import nn

from edgewright.artifact import Precision
from edgewright.data import DataSpec
from edgewright.errors import ConversionError, UnsupportedError
from edgewright.intake import child
from edgewright.intake.agreement import compare_onnx
from edgewright.intake.onnx_source import OnnxSource, run_onnx
from edgewright.intake.row_mixing import refuse_mixed_rows
from edgewright.intake.sklearn_model import SklearnSource
from edgewright.profile import Platform
from edgewright.store import Store
from edgewright.validate.diagnosis import diagnose
from edgewright_runtime.bundle.manifest import TensorSpec

pytestmark = pytest.mark.filterwarnings("ignore")

REFUSED = (
    r"answer to a row depends on the other rows of the batch: 10 of 10 rows .*a device gives one row at a time: "
    r"export the model in eval mode .*without statistics over the batch axis"
)
ROWS = 40
KERAS = """
import sys
import keras
given = keras.Input((6,))
centred = keras.ops.subtract(given, keras.ops.mean(given, axis=0, keepdims=True))
model = keras.Model(given, keras.layers.Dense(3)(centred))
model.save(sys.argv[1] + "/m.keras")
model.export(sys.argv[1] + "/saved", verbose=False)
"""
FACTORY = """
import torch
from torch import nn

class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head((x - x.mean(0)) / (x.std(0) + 1e-3))
"""


class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head((x - x.mean(0)) / (x.std(0) + 1e-3))


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"x_{s}": rng.normal(size=(ROWS, 6)).astype(np.float32) for s in ("train", "test")}
    np.savez(tmp_path / "d.npz", **arrays, **{f"y_{s}": rng.integers(0, 3, ROWS) for s in ("train", "test")})
    return DataSpec(path=tmp_path / "d.npz")


def written(kind, folder):
    torch.manual_seed(0)
    module, x = Centred().eval(), torch.randn(4, 6)
    path = folder / f"m.{kind}"
    match kind:
        case "pt2":
            free = ({0: torch.export.Dim("batch")},)
            torch.export.save(torch.export.export(module, (x,), dynamic_shapes=free), path)
        case "fixed.pt2":
            torch.export.save(torch.export.export(module, (x,)), path)
        case "pt":
            torch.jit.script(module).save(path)
        case "yaml":
            (folder / "mixing_network.py").write_text(FACTORY)
            path.write_text("factory: mixing_network:Centred\ninputs: {x: [6]}\n")
        case "onnx":
            onnx.save(network([helper.make_node("ReduceMean", ["x"], ["m"], axes=[0]), SUBTRACTED, HEAD]), path)
    return path


SUBTRACTED = helper.make_node("Sub", ["x", "m"], ["centred"])
HEAD = helper.make_node("MatMul", ["centred", "w"], ["y"])
WEIGHT = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)


def network(nodes, *constants):
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", size]) for n, size in (("x", 6), ("y", 3))]
    constants = (numpy_helper.from_array(WEIGHT, "w"), *constants)
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.mark.parametrize("kind", ["pt2", "pt", "yaml", "onnx"])
def test_a_model_that_centres_its_batch_is_refused(kind, tmp_path, data):
    with pytest.raises(UnsupportedError, match=REFUSED) as error:
        child.take_in(written(kind, tmp_path), data, tmp_path / "store", "m")
    assert "\n" not in str(error.value)


def test_a_program_of_four_rows_is_refused_rather_than_taken_by_way_of_onnx(tmp_path, data):
    with pytest.raises(UnsupportedError, match=r"takes 4 rows at a time, and its answer to a row depends"):
        child.take_in(written("fixed.pt2", tmp_path), data, tmp_path / "store", "m")


def test_a_model_that_tensorflow_converts_itself_is_refused(tmp_path, data):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, "-c", KERAS, str(tmp_path)], check=True, env=environment, timeout=240)
    for name in ("m.keras", "saved"):
        with pytest.raises(UnsupportedError, match=REFUSED):
            child.take_in(tmp_path / name, data, tmp_path / "store", "m")


def test_an_estimator_that_looks_at_the_whole_batch_is_refused(tmp_path, data, monkeypatch):
    with np.load(data.path) as arrays:
        estimator = LogisticRegression().fit(arrays["x_train"], arrays["y_train"])
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(estimator))
    SklearnSource(tmp_path / "m.pkl", data).answers()
    alone = LogisticRegression.predict_proba
    monkeypatch.setattr(LogisticRegression, "predict_proba", lambda self, rows: alone(self, rows - rows.mean(0)))
    with pytest.raises(UnsupportedError, match=REFUSED):
        SklearnSource(tmp_path / "m.pkl", data).answers()


def test_diagnose_says_so(tmp_path, data):
    path = written("onnx", tmp_path)
    with pytest.raises(UnsupportedError, match=REFUSED):
        diagnose(path, data, Platform.EDGE_DEVICE, Precision.FLOAT32, None, Store(tmp_path / "store"))


def test_dynamic_quantization_is_asked_one_row_at_a_time(tmp_path, data):
    """Its scale is that of all rows; a device gives one."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["centred"]),
        HEAD,
    ]
    onnx.save(network(nodes), tmp_path / "m.onnx")
    intake = child.take_in(tmp_path / "m.onnx", data, tmp_path / "store", "m")
    assert intake.model.inputs[0].shape == (1, 6)
    assert any("DynamicQuantizeLinear takes one scale" in note for note in intake.model.notes)
    arrays = np.load(intake.dataset.artifact.path)
    session = OnnxSource(tmp_path / "m.onnx", data).session
    alone = [run_onnx(session, {"x": row[None]})[0] for row in arrays["test.x.x"]]
    np.testing.assert_allclose(np.concatenate(alone), arrays["test.reference.y"], atol=1e-6)


def test_what_is_exported_must_take_few_rows_and_many(tmp_path, data):
    """A number of rows that an exporter wrote down fits the comparison on all of them alone."""
    plain = [helper.make_node("Identity", ["x"], ["centred"]), HEAD]
    onnx.save(network(plain), tmp_path / "m.onnx")
    source = OnnxSource(tmp_path / "m.onnx", data)
    (reference,), _ = source.answers()
    compare_onnx(network(plain), source, [reference], "exported")
    shape = numpy_helper.from_array(np.array([ROWS, 6]), "shape")
    fixed = network([helper.make_node("Reshape", ["x", "shape"], ["centred"]), HEAD], shape)
    with pytest.raises(ConversionError, match="ONNX Runtime cannot run what was exported"):
        compare_onnx(fixed, source, [reference], "exported")


def asked(answer, kind="float32", rows=300):
    """Refuse ``answer`` of random rows, given 256 at a time as sources are."""
    x = np.random.default_rng(0).normal(size=(rows, 4))
    together = [np.concatenate([answer(x[at : at + 256]) for at in range(0, rows, 256)])]
    return refuse_mixed_rows(lambda some: [answer(x[some])], together, [TensorSpec("y", (-1, 4), kind)])


def test_rows_that_are_answered_alike_pass():
    asked(lambda x: x * 2)
    asked(lambda x: np.where(x > 0, np.nan, np.inf))
    asked(lambda x: x + len(x) * 1e-8)  # a kernel rounds otherwise on another number of rows


def test_what_the_kernels_of_few_rows_round_otherwise_is_told_from_mixing():
    """A model that amplifies its rounding answers alone otherwise, but alike whatever stands beside a row."""
    (note,) = asked(lambda x: x + 8e-4 * np.sin(1e6 * x) * (len(x) < 8))
    assert note.startswith("the model answers a row otherwise by up to 0.000")
    assert note.endswith("and the same beside other rows: its own float32 rounding")
    assert asked(lambda x: x * 2) == ()


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: x + 8e-4 * (x - x.mean(0)),  # as little
        lambda x: x + 5e-3 * np.sin(1e6 * x) * (len(x) < 8),  # more than rounding
        lambda x: x + 8e-4 * np.sin(1e6 * x) * (len(x) < 8) + 3e-4 * x.max(0),  # both
    ],
)
def test_what_is_as_small_and_comes_of_the_other_rows_is_refused(answer):
    with pytest.raises(UnsupportedError, match="depends on the other rows"):
        asked(answer)


def test_too_few_rows_tell_no_rounding_from_mixing():
    with pytest.raises(UnsupportedError, match="depends on the other rows"):
        asked(lambda x: x + 8e-4 * np.sin(1e6 * x) * (len(x) < 2), rows=2)


def test_a_row_that_moves_within_its_batch_is_found():
    with pytest.raises(UnsupportedError, match="depends on the other rows"):
        asked(lambda x: x[::-1])


def test_chance_and_state_are_told_apart_from_mixing():
    rng = np.random.default_rng(0)
    with pytest.raises(UnsupportedError, match=r"otherwise each time .*random numbers or keeps a state"):
        asked(lambda x: x * rng.integers(0, 2, x.shape))


def test_a_tie_may_fall_either_way_but_a_mixed_class_may_not():
    def few(x):
        return (x > 0).astype(float) + (np.arange(len(x)) == 1)[:, None] * (len(x) == 2)

    asked(few, "int64")
    with pytest.raises(UnsupportedError, match="of 256 rows"):
        asked(lambda x: (x > x.mean(0) + 0.1).astype(float), "int64")


def test_rows_that_fail_or_lose_their_axis_alone_are_refused():
    def fails(x):
        if len(x) < 2:
            raise RuntimeError("needs two rows")
        return x

    with pytest.raises(UnsupportedError, match=r"answers 256 rows at once, but fails on 1.*needs two rows"):
        asked(fails)
    with pytest.raises(UnsupportedError, match=r"returns \(4,\) for 1 rows.*no squeeze"):
        asked(lambda x: x.squeeze())
