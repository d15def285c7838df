"""XGBoost and LightGBM beyond plain gradient boosting: what is exported answers as the model's own `predict` does."""

import pickle

import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from edgewright.data import DataSpec
from edgewright.errors import UnsupportedError
from edgewright.intake import child, tables
from tests.intake.test_encoders import assert_agrees

pytestmark = pytest.mark.filterwarnings("ignore")
CHANCE, ROWS = np.random.default_rng(0), 240
X = pd.DataFrame(
    {
        "size": CHANCE.normal(size=ROWS).round(2),
        "age": CHANCE.integers(18, 80, ROWS) * 1.0,
        "flag": CHANCE.random(ROWS) < 0.5,
    }
)
VALUE = X["size"] * 3 + X.age / 10 + X.flag
TRUTH = (VALUE.median() < VALUE).astype(int)
THREE = pd.qcut(VALUE, 3, labels=False)
FOREST = {"boosting_type": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}


def xgb(kind=xgboost.XGBClassifier, **options):
    return kind(n_estimators=6, max_depth=3, **options)


def lgb(kind=lightgbm.LGBMClassifier, **options):
    return kind(n_estimators=6, verbose=-1, **options)


def taken(model, x, y, folder):
    path, file = folder / "table.parquet", folder / "model.pkl"
    x.assign(label=y).to_parquet(path)
    file.write_bytes(pickle.dumps(model))
    return child.take_in(file, DataSpec(path=path, target="label"), folder / "store", "model")


def assert_answers_alike(model, x, y, folder):
    intake = taken(model, x, y, folder)
    answers = model.predict_proba(x) if hasattr(model, "predict_proba") else model.predict(x)
    assert_agrees(intake, tables.encode(x, intake.model.preprocessing), answers.reshape(len(x), -1))
    return intake


REGRESSORS = {"kind": xgboost.XGBRegressor}


@pytest.mark.parametrize(
    ("model", "y"),
    [
        (xgb(), TRUTH),  # over a column of booleans
        (xgb(booster="dart", rate_drop=0.5), TRUTH),
        (xgb(booster="dart", rate_drop=0.5, **REGRESSORS), VALUE),
        (xgb(objective="multi:softmax", num_class=3), THREE),
        (xgb(objective="reg:logistic", base_score=0.3, **REGRESSORS), TRUTH * 1.0),
        (lgb(**FOREST), TRUTH),
        (lgb(**FOREST), THREE),
        (lgb(lightgbm.LGBMRegressor, **FOREST), VALUE),
        (lgb(objective="multiclassova"), THREE),
        (lgb(objective="multiclassova", sigmoid=2.0), THREE),
        (lgb(sigmoid=2.0), TRUTH),
        (lgb(lightgbm.LGBMRegressor, objective="fair"), VALUE),
        (lgb(lightgbm.LGBMRegressor, objective="mape"), VALUE),
        (lgb(lightgbm.LGBMRegressor, objective="cross_entropy"), TRUTH * 1.0),
        (lgb(lightgbm.LGBMRegressor, objective="cross_entropy_lambda"), TRUTH * 1.0),
        (lgb(lightgbm.LGBMRegressor, reg_sqrt=True), VALUE - VALUE.mean()),
    ],
)
def test_a_booster_answers_alike(model, y, tmp_path):
    assert_answers_alike(model.fit(X, y), X, y, tmp_path)


@pytest.mark.parametrize("missing", [-999, 0])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_number_that_means_missing_goes_where_a_blank_goes(missing, scaled, tmp_path):
    x = X[["size", "age"]].copy()
    x.loc[::5, "size"] = missing
    trees = xgb(missing=missing)
    model = (make_pipeline(StandardScaler(), trees) if scaled else trees).fit(x, TRUTH)
    assert_answers_alike(model, x, TRUTH, tmp_path)


@pytest.mark.parametrize("ranker", [xgb(xgboost.XGBRanker), lgb(lightgbm.LGBMRanker)])
def test_a_ranker_is_taken_and_said_to_be_one(ranker, tmp_path):
    intake = assert_answers_alike(ranker.fit(X, TRUTH, group=[60] * 4), X, TRUTH * 1.0, tmp_path)
    assert any("orders rows by its scores" in note for note in intake.model.notes)


@pytest.mark.parametrize(
    ("model", "why"),
    [(lgb(linear_tree=True), "linear models in their leaves"), (xgb(objective="binary:logitraw"), "binary:logistic")],
)
def test_what_has_no_path_is_refused_with_the_way_out(model, why, tmp_path):
    with pytest.raises(UnsupportedError, match=why):
        taken(model.fit(X, TRUTH), X, TRUTH, tmp_path)
