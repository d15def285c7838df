"""Encoders of text columns and ways with missing values: the graphs answer as scikit-learn does, on every row."""

import pickle

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier, VotingClassifier
from sklearn.experimental import enable_iterative_imputer  # noqa: F401 - makes the next import work
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler, TargetEncoder
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from edgewright.data import DataSpec
from edgewright.errors import ConversionError, UnsupportedError
from edgewright.intake import child, tables, torch_graph
from edgewright.intake.tabulated import tabulate

pytestmark = pytest.mark.filterwarnings("ignore")
UNKNOWN = {"handle_unknown": "use_encoded_value", "unknown_value": -1}


def linear():
    return LogisticRegression(max_iter=500)


def vote():
    trees = RandomForestClassifier(5, random_state=0)
    return VotingClassifier([("a", linear()), ("b", trees)], voting="soft", weights=[1, 2])


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    random, rows = np.random.default_rng(0), 400
    shares = [0.3, 0.2, 0.2, 0.1, 0.1, 0.05, 0.03, 0.02]
    frame = pd.DataFrame(
        {
            "kind": random.choice(list("abcdefgh"), rows, p=shares),
            "two words": random.choice(["x y", "z"], rows),
            "size": random.normal(size=rows).round(2),
            "weight": np.where(random.random(rows) < 0.1, np.nan, random.normal(50, 9, rows).round(1)),
        }
    )
    label = (frame["kind"].isin(list("ace")) ^ (frame["size"] > 0)).astype(int)
    path = tmp_path_factory.mktemp("encoders") / "table.csv"
    frame.assign(label=label).to_csv(path, index=False)
    return frame, label, path


def taken(model, folder, spec):
    file = folder / "model.pkl"
    file.write_bytes(pickle.dumps(model))
    return child.take_in(file, spec, folder / "store", "model")


def assert_agrees(intake, x, expected):
    assert intake.model.graph is not None, intake.model.graph_refusal
    with torch.no_grad():
        graph = torch_graph.load(intake.model.graph.path)(torch.from_numpy(x)).numpy()
    session = onnxruntime.InferenceSession(intake.model.onnx.path, providers=["CPUExecutionProvider"])
    for got in (graph, session.run(None, {"features": x})[0]):
        np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "final"),
    [
        (OneHotEncoder(), linear()),
        (OneHotEncoder(drop="first"), linear()),
        (OneHotEncoder(drop="if_binary", handle_unknown="ignore"), SVC(probability=True, random_state=0)),
        (OneHotEncoder(sparse_output=False), KNeighborsClassifier(weights="distance")),
        (OneHotEncoder(), vote()),
        (OrdinalEncoder(), linear()),
        (OrdinalEncoder(**UNKNOWN), HistGradientBoostingClassifier(max_iter=8)),
        (TargetEncoder(random_state=0), linear()),
    ],
)
def test_encoders_of_text_agree_on_every_row(encoder, final, table, tmp_path):
    frame, label, path = table
    columns = make_column_transformer(
        (encoder, ["kind", "two words"]), (make_pipeline(SimpleImputer(), StandardScaler()), ["size", "weight"])
    )
    model = make_pipeline(columns, final).fit(frame, label)
    intake = taken(model, tmp_path, DataSpec(path=path, target="label"))
    rows = tables.read_table(DataSpec(path=path, target="label")).frame
    assert_agrees(intake, tables.encode(rows, intake.model.preprocessing), model.predict_proba(frame))
    refusing = getattr(encoder, "handle_unknown", "") == "error"
    assert refusing == any("refuses unknown categories" in note for note in intake.model.notes)


@pytest.fixture(scope="module")
def gaps(tmp_path_factory):
    """Breast cancer with one number of ten missing."""
    cancer = load_breast_cancer()
    x = cancer.data.astype(np.float32)
    x[np.random.default_rng(0).random(x.shape) < 0.1] = np.nan
    path = tmp_path_factory.mktemp("gaps") / "gaps.npz"
    np.savez(path, x=x, y=cancer.target)
    return x, cancer.target, path


@pytest.mark.parametrize(
    "model",
    [
        make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), linear()),
        make_pipeline(SimpleImputer(strategy="most_frequent"), StandardScaler(), linear()),
        make_pipeline(SimpleImputer(strategy="constant", fill_value=1.5), StandardScaler(), linear()),
        make_pipeline(StandardScaler(), SimpleImputer(), linear()),
        DecisionTreeClassifier(random_state=0),
        make_pipeline(StandardScaler(), RandomForestClassifier(10, random_state=0)),
        make_pipeline(StandardScaler(), HistGradientBoostingClassifier(max_iter=5)),
    ],
)
def test_missing_numbers_are_met_alike(model, gaps, tmp_path):
    """Filled in, or sent to the side of a tree that training chose for them."""
    x, y, path = gaps
    model.fit(x[::2].astype(np.float64), y[::2])
    assert_agrees(taken(model, tmp_path, DataSpec(path=path)), x, model.predict_proba(x.astype(np.float64)))


def test_filling_in_from_neighbours_deploys_to_edge_devices_only(gaps, tmp_path):
    x, y, path = gaps
    model = make_pipeline(KNNImputer(), StandardScaler(), linear()).fit(x[::2], y[::2])
    intake = taken(model, tmp_path, DataSpec(path=path))
    assert intake.model.graph is None
    assert "--platform edge_device" in intake.model.graph_refusal


def test_an_imputer_without_a_way_is_refused_by_name(gaps, tmp_path):
    x, y, path = gaps
    model = make_pipeline(IterativeImputer(max_iter=2), StandardScaler(), linear()).fit(x[::2], y[::2])
    with pytest.raises((ConversionError, UnsupportedError), match="IterativeImputer") as error:
        taken(model, tmp_path, DataSpec(path=path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("known", [[1234567890123456512, 1234567890123457536], [0.1, 1e22], [1, 2, 3], [0.5, 2.0**53]])
@pytest.mark.parametrize(
    ("encoder", "answer"), [(OneHotEncoder(handle_unknown="ignore"), {}), (OrdinalEncoder(**UNKNOWN), {0: -1.0})]
)
def test_an_unknown_number_is_not_the_largest_known_one(encoder, answer, known):
    """Beyond 2^53 a number and one that is a half more are the same in float64."""
    fitted = clone(encoder).fit(np.array(known)[:, None])
    tables_of = tabulate([fitted], lambda cells: np.array(cells, dtype=np.float64).reshape(-1, 1), ["id"])
    (column,) = tables_of.tables
    assert column.unknown == answer
