"""Classifiers that decide at a threshold: the greatest score is that of the class that `predict` names."""

import pickle

import joblib
import numpy as np
import onnxruntime
import pytest
import skops.io
from scipy.stats import loguniform
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, make_scorer
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    RandomizedSearchCV,
    TunedThresholdClassifierCV,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from edgewright.data import DataSpec
from edgewright.intake import child

pytestmark = pytest.mark.filterwarnings("ignore")


def logistic():
    return LogisticRegression(max_iter=500)


def forest():
    """Ten trees: many a probability is a threshold itself."""
    return RandomForestClassifier(10, max_depth=2, random_state=0)


@pytest.fixture(scope="module")
def cancer(tmp_path_factory):
    found = load_breast_cancer()
    x = found.data[:, :4].astype(np.float32)
    path = tmp_path_factory.mktemp("cancer") / "cancer.npz"
    np.savez(path, x=x, y=found.target)
    return x, found.target, path


def saved(model, folder, way):
    path = folder / f"model.{way}"
    if way == "pkl":
        path.write_bytes(pickle.dumps(model))
    elif way == "joblib":
        joblib.dump(model, path, compress=3)
    else:
        skops.io.dump(model, path)
    return path


def named(model, cancer, folder, way="pkl"):
    x, _, path = cancer
    intake = child.take_in(saved(model, folder, way), DataSpec(path=path), folder / "store", "model")
    session = onnxruntime.InferenceSession(intake.model.onnx.path, providers=["CPUExecutionProvider"])
    return intake, session.run(None, {"features": x})[0].argmax(axis=1)


@pytest.mark.parametrize(
    "model",
    [
        FixedThresholdClassifier(logistic(), threshold=0.2),
        FixedThresholdClassifier(make_pipeline(StandardScaler(), logistic()), threshold=0.9, pos_label=0),
        FixedThresholdClassifier(forest(), threshold=0.3),
        FixedThresholdClassifier(forest(), threshold=0.7, pos_label=0),
        FixedThresholdClassifier(logistic()),
        make_pipeline(StandardScaler(), FixedThresholdClassifier(SVC(), threshold=0.8)),
        make_pipeline(StandardScaler(), FixedThresholdClassifier(SVC(), threshold=0.8, pos_label=0)),
        GridSearchCV(FixedThresholdClassifier(logistic()), {"threshold": [0.1, 0.9]}, scoring="recall"),
        VotingClassifier(
            [(str(t), FixedThresholdClassifier(logistic(), threshold=t)) for t in (0.1, 0.2, 0.95)],
        ),
    ],
)
def test_a_fixed_threshold_decides(model, cancer, tmp_path):
    x, y, _ = cancer
    model.fit(x.astype(np.float64), y)
    expected = model.predict(x.astype(np.float64))
    _, found = named(model, cancer, tmp_path)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("way", ["pkl", "joblib", "skops"])
def test_a_tuned_threshold_decides_and_is_told(way, cancer, tmp_path):
    x, y, _ = cancer
    scoring = make_scorer(f1_score, pos_label=0)
    model = TunedThresholdClassifierCV(forest(), scoring=scoring).fit(x.astype(np.float64), y)
    plain = model.estimator_.predict(x.astype(np.float64))
    intake, found = named(model, cancer, tmp_path, way)
    np.testing.assert_array_equal(found, model.predict(x.astype(np.float64)))
    assert (found != plain).any()
    told = f"'0' where its probability reaches {model.best_threshold_:g}"
    assert any(told in note for note in intake.model.notes)


@pytest.mark.parametrize(
    "search",
    [
        GridSearchCV(logistic(), {"C": [0.1, 1]}, scoring=make_scorer(f1_score)),
        RandomizedSearchCV(logistic(), {"C": loguniform(0.1, 1)}, n_iter=2, random_state=0),
    ],
)
def test_what_a_search_keeps_of_its_training_is_no_reason_to_refuse_it(search, cancer, tmp_path):
    x, y, _ = cancer
    search.fit(x.astype(np.float64), y)
    np.testing.assert_array_equal(named(search, cancer, tmp_path)[1], search.predict(x.astype(np.float64)))
