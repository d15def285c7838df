"""Linear models over standardized features, as scikit-learn and skl2onnx write them, in fewer bits."""

import pickle
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from skl2onnx import to_onnx
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes, load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import nn

from edgewright.artifact import Dataset, Format, ImportedModel, ModelTask, Precision
from edgewright.data import DataSpec
from edgewright.export import export, tflite
from edgewright.export.scaling import ScalingNode, feature_scaling
from edgewright.intake import child, torch_graph
from edgewright.intake.onnx_graph import import_onnx
from edgewright.profile import Platform
from edgewright.store import Store
from edgewright.validate import evaluate
from edgewright_runtime.backends import load, run_rows
from edgewright_runtime.bundle.manifest import TensorSpec


class Linear:
    """A fitted pipeline through intake, its rows, and its own answers to them."""

    def __init__(self, folder: Any, source: Any, rows: np.ndarray, answers: np.ndarray, output: str) -> None:
        self.store, self.rows, self.answers = Store(folder / "store"), rows, answers
        options = {"zipmap": False} if output == "probabilities" else {}
        proto = to_onnx(source, rows[:1], options=options, target_opset=17)
        onnx.save(proto, folder / "linear.onnx")
        torch_graph.save(import_onnx(proto), folder / "linear.graph")
        np.savez(folder / "data.npz", **{"calibration.x.X": rows})
        saved = self.store.put(folder / "linear.onnx", Format.ONNX)
        outputs = (TensorSpec(output, (-1, answers.shape[1]), "float32"),)
        if output == "probabilities":
            outputs = (TensorSpec("label", (-1,), "int64"), *outputs)
        self.model = ImportedModel(
            name="linear",
            source=saved,
            onnx=saved,
            graph=self.store.put(folder / "linear.graph", Format.TORCH_GRAPH, parent=saved.digest),
            inputs=(TensorSpec("X", (-1, rows.shape[1]), "float32"),),
            outputs=outputs,
            task=ModelTask.CLASSIFICATION,
        )
        data = self.store.put(folder / "data.npz", Format.DATASET)
        self.dataset = Dataset(artifact=data, calibration_rows=len(rows), validation_rows=0, test_rows=0)

    def difference(self, platform: Platform, precision: Precision) -> tuple[Any, float]:
        """The export, and how far its answers lie from the source's, over their largest magnitude."""
        made = export(self.model, self.dataset, platform, precision, self.store, instruction_set="x86_64")
        backend = load(made.artifact.path, made.artifact.format.value)
        found = run_rows(backend, {"X": self.rows})[self.model.outputs[-1].name]
        return made, float(np.abs(found - self.answers).max() / np.abs(self.answers).max())


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    x, y = load_digits(return_X_y=True)
    rows = x[:400].astype(np.float32)
    source = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(rows, y[:400])
    return Linear(tmp_path_factory.mktemp("classifier"), source, rows, source.predict_proba(rows), "probabilities")


@pytest.fixture(scope="module")
def projected(tmp_path_factory):
    x, y = load_digits(return_X_y=True)
    rows = x[:200].astype(np.float32)
    source = make_pipeline(StandardScaler(), PCA(12), LogisticRegression(max_iter=300)).fit(rows, y[:200])
    return Linear(tmp_path_factory.mktemp("projected"), source, rows, source.predict_proba(rows), "probabilities")


@pytest.fixture(scope="module")
def regressor(tmp_path_factory):
    x, y = load_diabetes(return_X_y=True, scaled=False)
    source = make_pipeline(StandardScaler(), Ridge()).fit(x, y)
    rows = x.astype(np.float32)
    answers = source.predict(rows).reshape(-1, 1)
    return Linear(tmp_path_factory.mktemp("regressor"), source, rows, answers, "variable")


def test_standardization_stays_float_in_an_android_int8_file(classifier):
    made, difference = classifier.difference(Platform.ANDROID, Precision.INT8)
    model = tflite.load(made.artifact.path)
    tensors = model.subgraphs[0].tensors
    dtypes = {
        tflite.operator_name(model, operator): tflite.DTYPES[tensors[operator.inputs[0]].type]
        for operator in reversed(model.subgraphs[0].operators)
    }
    assert dtypes["SUB"] == "float32"
    assert dtypes["FULLY_CONNECTED"] == "int8"
    assert difference < 0.15  # 0.4 where the spreads of the features share one scale


@pytest.mark.parametrize(
    ("precision", "tolerance"), [(Precision.INT8, 0.15), (Precision.DYNAMIC_INT8, 0.15), (Precision.FLOAT16, 5e-3)]
)
def test_linear_classifier_takes_fewer_bits_on_an_edge_device(classifier, precision, tolerance):
    made, difference = classifier.difference(Platform.EDGE_DEVICE, precision)
    assert difference < tolerance
    assert {node.domain for node in onnx.load(made.artifact.path).graph.node} <= {"", "com.microsoft"}
    assert any("by way of the torch graph" in note for note in made.notes)
    assert [spec.name for spec in made.outputs] == ["label", "probabilities"]


def test_half_precision_goes_by_way_of_the_graph_where_onnx_tells_no_type(projected):
    """A scaler of ai.onnx.ml before standard operators: what it gives would stay float32 beside weights in half."""
    made, difference = projected.difference(Platform.EDGE_DEVICE, Precision.FLOAT16)
    assert difference < 5e-3
    assert onnx.TensorProto.FLOAT16 in {tensor.data_type for tensor in onnx.load(made.artifact.path).graph.initializer}
    assert any("by way of the torch graph" in note for note in made.notes)


def test_linear_regressor_takes_fewer_bits_on_an_edge_device(regressor):
    made, difference = regressor.difference(Platform.EDGE_DEVICE, Precision.INT8)
    assert difference < 0.05
    stored = {tensor.data_type for tensor in onnx.load(made.artifact.path).graph.initializer if len(tensor.dims) > 1}
    assert onnx.TensorProto.INT8 in stored


def test_scaling_is_arithmetic_by_feature_before_the_first_layer():
    spreads, same = np.array([1.0, 30.0]), np.full(3, 1 / 255)
    steps = [
        ScalingNode("MUL", ("image",), (same,), ("scaled",)),
        ScalingNode("Sub", ("scaled",), (spreads,), ("centred",)),
        ScalingNode("FULLY_CONNECTED", ("centred",), (spreads,), ("hidden",)),
        ScalingNode("ADD", ("hidden",), (spreads,), ("shifted",)),
        ScalingNode("MUL", ("centred", "hidden"), (spreads,), ("gated",)),
    ]
    assert feature_scaling(steps, ["image"]) == [steps[1]]


def test_a_batch_norm_over_columns_and_what_picks_them_count_as_scaling():
    spreads = np.array([1e-3, 1e6])
    steps = [
        ScalingNode("Gather", ("row",), (), ("one",)),
        ScalingNode("Gather", ("pixels",), (), ("crop",)),
        ScalingNode("BatchNormalization", ("one",), (spreads, spreads), ("normed",)),
        ScalingNode("Concat", ("one", "normed"), (), ("joined",)),
        ScalingNode("Gemm", ("joined",), (spreads,), ("hidden",)),
        ScalingNode("BatchNormalization", ("hidden",), (spreads,), ("later",)),
    ]
    assert feature_scaling(steps, ["row", "pixels"], ["row"]) == [steps[0], steps[2], steps[3]]


def through_the_door(folder, model, data, **spec):
    store = Store(folder / "store")
    given = DataSpec(path=data, **spec)
    return child.take_in(model, given, store.root, "model"), store


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("platform", [Platform.EDGE_DEVICE, Platform.ANDROID])
@pytest.mark.parametrize("kind", ["network", "table"])
def test_columns_of_very_different_spreads_keep_their_accuracy_in_8_bits(platform, kind, tmp_path):
    """In one scale for all columns those of 1e-3 would round to nothing beside those of 1e6: half of the rows wrong."""
    chance = np.random.default_rng(0)
    z = chance.normal(size=(500, 4)).astype(np.float32)
    spread, centre = np.array([1e-3, 1.0, 50.0, 1e6], np.float32), np.array([0, 5, 100, 1e6], np.float32)
    x, y = z * spread + centre, (z[:, 0] + z[:, 1] > 0).astype(int)
    if kind == "network":
        norm, dense = nn.BatchNorm1d(4, eps=1e-12), nn.Linear(4, 2)
        norm.running_mean, norm.running_var = torch.from_numpy(x.mean(axis=0)), torch.from_numpy(x.var(axis=0))
        dense.weight.data = torch.tensor([[-5.0, -5, 0, 0], [5, 5, 0, 0]])
        dense.bias.data.zero_()
        rows = ({0: torch.export.Dim("rows")},)
        program = torch.export.export(
            nn.Sequential(norm, dense).eval(), (torch.from_numpy(x[:2]),), dynamic_shapes=rows
        )
        torch.export.save(program, tmp_path / "m.pt2")
        np.savez(tmp_path / "d.npz", x=x, y=y)
        intake, store = through_the_door(tmp_path, tmp_path / "m.pt2", tmp_path / "d.npz")
    else:
        frame = pd.DataFrame(x, columns=[*"abcd"]).assign(side=np.where(z[:, 3] > 0, "left", "right"))
        parts = [("c", OneHotEncoder(), ["side"]), ("n", StandardScaler(), [*"abcd"])]
        model = make_pipeline(ColumnTransformer(parts), LogisticRegression()).fit(frame, y)
        (tmp_path / "m.pkl").write_bytes(pickle.dumps(model))
        frame.assign(y=y).to_csv(tmp_path / "d.csv", index=False)
        intake, store = through_the_door(tmp_path, tmp_path / "m.pkl", tmp_path / "d.csv", target="y")
    small = export(intake.model, intake.dataset, platform, Precision.INT8, store, instruction_set="x86_64")
    found = evaluate(intake.model, intake.dataset, small)
    assert found.source_accuracy.value > 0.95
    assert found.accuracy.value > found.source_accuracy.value - 0.03
