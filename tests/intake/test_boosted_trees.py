"""XGBoost and LightGBM, alone and inside scikit-learn: the graphs answer as the libraries do, on every row."""

import io
import pickle

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from edgewright.data import DataSpec
from edgewright.errors import InputError, UnsupportedError, UntrustedModelError
from edgewright.intake import child, pickle_guard, torch_graph

pytestmark = pytest.mark.filterwarnings("ignore")
DATA = {"two": load_breast_cancer, "three": load_wine, "number": load_diabetes}


def made(library, kind, **settings):
    module = pytest.importorskip(library, reason=f"{library} is not installed")
    name = {"xgboost": "XGB", "lightgbm": "LGBM"}[library] + ("Regressor" if kind == "number" else "Classifier")
    quiet = {"verbosity": 0} if library == "xgboost" else {"verbose": -1}
    return getattr(module, name)(n_estimators=12, max_depth=4, n_jobs=1, random_state=0, **quiet, **settings)


def taken(model, folder, spec):
    file = folder / "model.pkl"
    file.write_bytes(pickle.dumps(model))
    return child.take_in(file, spec, folder / "store", "model")


def assert_agrees(intake, x, expected):
    """Rounding only: one decision that falls otherwise moves an answer by far more."""
    assert intake.model.graph is not None, intake.model.graph_refusal
    assert intake.model.float32_only
    expected = expected.reshape(len(x), -1)
    with torch.no_grad():
        graph = torch_graph.load(intake.model.graph.path)(torch.from_numpy(x)).numpy()
    session = onnxruntime.InferenceSession(intake.model.onnx.path, providers=["CPUExecutionProvider"])
    for got in (graph, session.run(None, {"features": x})[0]):
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6 * max(np.abs(expected).max(), 1))


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("scaled", [False, True], ids=["bare", "scaled"])
def test_every_row_is_answered_alike(library, kind, scaled, tmp_path):
    """Half of the rows trained it; thresholds lie between values that float32 hardly tells apart."""
    bunch = DATA[kind]()
    x, y = bunch.data.astype(np.float32), bunch.target
    model = made(library, kind)
    model = make_pipeline(StandardScaler(), model) if scaled else model
    model.fit(x[::2].astype(np.float64), y[::2])
    np.savez(tmp_path / "data.npz", x=x, y=y)
    intake = taken(model, tmp_path, DataSpec(path=tmp_path / "data.npz"))
    wide = x.astype(np.float64)
    assert_agrees(intake, x, model.predict(wide) if kind == "number" else model.predict_proba(wide))


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_missing_values_take_the_way_that_training_found(library, tmp_path):
    bunch = load_breast_cancer()
    x, y = bunch.data.astype(np.float32), bunch.target
    x[np.random.default_rng(0).random(x.shape) < 0.1] = np.nan
    model = made(library, "two").fit(x[::2].astype(np.float64), y[::2])
    np.savez(tmp_path / "data.npz", x=x, y=y)
    intake = taken(model, tmp_path, DataSpec(path=tmp_path / "data.npz"))
    assert_agrees(intake, x, model.predict_proba(x.astype(np.float64)))


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_a_model_that_stopped_early_answers_by_its_best_iteration(library, tmp_path):
    bunch = load_breast_cancer()
    x, y = bunch.data.astype(np.float32), bunch.target
    module = pytest.importorskip(library, reason=f"{library} is not installed")
    checked = {"eval_set": [(x[1::4], y[1::4])]}
    if library == "xgboost":
        model = module.XGBClassifier(n_estimators=200, learning_rate=0.5, early_stopping_rounds=3, n_jobs=1)
        model.fit(x[::2], y[::2], verbose=False, **checked)
        assert model.best_iteration < 199
    else:
        model = module.LGBMClassifier(n_estimators=200, learning_rate=0.5, n_jobs=1, verbose=-1)
        model.fit(x[::2], y[::2], callbacks=[module.early_stopping(3, verbose=False)], **checked)
        assert model.best_iteration_ < 199
    np.savez(tmp_path / "data.npz", x=x, y=y)
    intake = taken(model, tmp_path, DataSpec(path=tmp_path / "data.npz"))
    assert_agrees(intake, x, model.predict_proba(x.astype(np.float64)))


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
@pytest.mark.parametrize("kind", ["vote", "calibrated"])
def test_inside_models_of_scikit_learn(library, kind, tmp_path):
    bunch = load_wine()
    x, y = bunch.data.astype(np.float32), bunch.target
    booster = made(library, "three")
    model = (
        CalibratedClassifierCV(booster, cv=2)
        if kind == "calibrated"
        else VotingClassifier([("a", booster), ("b", LogisticRegression())], voting="soft", weights=[2, 1])
    )
    model = make_pipeline(StandardScaler(), model).fit(x[::2].astype(np.float64), y[::2])
    np.savez(tmp_path / "data.npz", x=x, y=y)
    intake = taken(model, tmp_path, DataSpec(path=tmp_path / "data.npz"))
    assert_agrees(intake, x, model.predict_proba(x.astype(np.float64)))


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
@pytest.mark.parametrize("threshold", [0.0, 1.0], ids=["dense", "sparse"])
def test_a_table_with_text_columns(library, threshold, tmp_path):
    """XGBoost takes the zeros that a sparse row leaves out for missing values."""
    import pandas as pd

    random = np.random.default_rng(0)
    table = pd.DataFrame(
        {"colour": random.choice(["red", "blue", "green"], 300), "size": random.normal(size=300).round(1)}
    )
    label = (table["colour"] == "red") ^ (table["size"] > 0.2)
    table.assign(label=label.astype(int)).to_csv(tmp_path / "t.csv", index=False)
    parts = [("c", OneHotEncoder(), ["colour"]), ("n", StandardScaler(), ["size"])]
    model = make_pipeline(ColumnTransformer(parts, sparse_threshold=threshold), made(library, "two")).fit(table, label)
    intake = taken(model, tmp_path, DataSpec(path=tmp_path / "t.csv", target="label"))
    arrays = np.load(intake.dataset.artifact.path)
    x = np.concatenate([arrays[f"{s}.x.features"] for s in ("train", "validation", "test")])
    codes = {v: k for k, v in intake.model.preprocessing.columns[0].vocabulary}
    rows = pd.DataFrame({"colour": [codes[int(c)] for c in x[:, 0]], "size": x[:, 1].astype(np.str_).astype(float)})
    assert_agrees(intake, x, model.predict_proba(rows))


def test_zeros_that_count_as_missing_are_refused_by_name(tmp_path):
    """onnxmltools writes them as ordinary zeros: a few rows in a hundred would be answered otherwise."""
    generator = np.random.default_rng(0)
    x = generator.integers(0, 12, size=(400, 2)).astype(np.float64)
    y = np.where(x[:, 0] == 0, "broken", np.where(x[:, 1] > 5, "hot", "cold"))
    model = made("lightgbm", "class", zero_as_missing=True).fit(x, y)
    np.savez(tmp_path / "d.npz", x=x.astype(np.float32), y=y)
    with pytest.raises(UnsupportedError, match=r"LGBMClassifier with zero_as_missing.*NaN"):
        taken(model, tmp_path, DataSpec(path=tmp_path / "d.npz"))


def test_a_booster_without_trees_is_refused(tmp_path):

    bunch = load_diabetes()
    model = made("xgboost", "number", booster="gblinear").fit(bunch.data, bunch.target)
    np.savez(tmp_path / "data.npz", x=bunch.data, y=bunch.target)
    with pytest.raises(UnsupportedError, match="booster 'gblinear'"):
        taken(model, tmp_path, DataSpec(path=tmp_path / "data.npz"))


def test_a_library_that_is_absent_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "xgboost", None)
    monkeypatch.delitem(sys.modules, "xgboost.sklearn", raising=False)
    path = tmp_path / "m.pkl"
    path.write_bytes(b"cxgboost.sklearn\nXGBClassifier\n.")
    with pytest.raises(InputError, match="needs xgboost"):
        pickle_guard.load_model(path)


@pytest.mark.parametrize("name", ["xgboost.callback TrainingCallback", "lightgbm.basic _load_lib", "catboost CatBoost"])
def test_other_names_of_the_libraries_stay_outside(tmp_path, name):
    module, leaf = name.split()
    path = tmp_path / "m.pkl"
    path.write_bytes(io.BytesIO(f"c{module}\n{leaf}\n.".encode()).read())
    with pytest.raises(UntrustedModelError, match=module.partition(".")[0]):
        pickle_guard.load_model(path)
