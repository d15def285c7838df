"""Transformers that write their own operators, and columns in another order: the graphs answer as scikit-learn does."""

import pickle

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from skl2onnx.common.data_types import FloatTensorType
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier, StackingClassifier
from sklearn.feature_selection import RFE, SelectKBest, mutual_info_classif
from sklearn.frozen import FrozenEstimator
from sklearn.impute import KNNImputer, MissingIndicator, SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, PowerTransformer, SplineTransformer, StandardScaler

from edgewright.data import DataSpec
from edgewright.errors import InputError, UnsupportedError
from edgewright.intake import child, tables
from edgewright.intake.estimator_graph import transformer_graph
from tests.intake.test_encoders import assert_agrees

pytestmark = pytest.mark.filterwarnings("ignore")
CHANCE, ROWS = np.random.default_rng(0), 240
NUMBERS = ["size", "age"]


def logistic():
    return LogisticRegression(max_iter=500)


@pytest.fixture(scope="module")
def frame():
    """Text, a number of ten blank, whole numbers, booleans, and a column without a value."""
    size = CHANCE.normal(size=ROWS).round(2)
    return pd.DataFrame(
        {
            "city": CHANCE.choice(["oslo", "new york", "köln"], ROWS),
            "size": np.where(CHANCE.random(ROWS) < 0.1, np.nan, size),
            "age": CHANCE.integers(18, 80, ROWS).astype(float),
            "flag": CHANCE.random(ROWS) < 0.5,
            "empty": np.full(ROWS, np.nan),
        }
    )


@pytest.fixture(scope="module")
def label(frame):
    return ((frame["size"].fillna(1) + frame.flag + CHANCE.normal(size=ROWS) * 0.3) > 0.7).astype(int)


def taken(model, frame, label, folder):
    path, file = folder / "table.parquet", folder / "model.pkl"
    frame.assign(label=label).to_parquet(path)
    file.write_bytes(pickle.dumps(model))
    return child.take_in(file, DataSpec(path=path, target="label"), folder / "store", "model")


def assert_answers_alike(model, frame, label, folder):
    intake = taken(model, frame, label, folder)
    answers = model.predict_proba(frame) if hasattr(model, "predict_proba") else model.predict(frame)
    assert_agrees(intake, tables.encode(frame, intake.model.preprocessing), answers.reshape(len(frame), -1))
    return intake


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("flags", [False, True])
@pytest.mark.parametrize("final", [logistic(), RandomForestClassifier(5, random_state=0)])
def test_imputers_fill_flag_and_leave_out(keep, flags, final, frame, label, tmp_path):
    x = frame[[*NUMBERS, "empty"]]
    imputer = SimpleImputer(add_indicator=flags, keep_empty_features=keep)
    assert_answers_alike(make_pipeline(imputer, StandardScaler(), final).fit(x, label), x, label, tmp_path)


@pytest.mark.parametrize("flags", [False, True])
def test_a_number_that_means_missing_is_filled_in(flags, frame, label, tmp_path):
    x = frame[NUMBERS].fillna(-999)
    model = make_pipeline(SimpleImputer(missing_values=-999, add_indicator=flags), StandardScaler(), logistic())
    assert_answers_alike(model.fit(x, label), x, label, tmp_path)


def test_flags_alone_stand_beside_what_is_filled_in(frame, label, tmp_path):
    model = make_pipeline(make_union(SimpleImputer(), MissingIndicator()), logistic()).fit(frame[NUMBERS], label)
    assert_answers_alike(model, frame[NUMBERS], label, tmp_path)


def test_neighbours_with_flags_are_refused_with_a_way_out(frame, label, tmp_path):
    model = make_pipeline(KNNImputer(add_indicator=True), logistic()).fit(frame[NUMBERS], label)
    with pytest.raises(UnsupportedError, match="put a MissingIndicator beside it"):
        taken(model, frame[NUMBERS], label, tmp_path)


@pytest.mark.parametrize("method", ["yeo-johnson", "box-cox"])
def test_powers_let_missing_values_pass(method, frame, label, tmp_path):
    x = frame[NUMBERS] if method == "yeo-johnson" else frame[NUMBERS].abs() + 1
    model = make_pipeline(PowerTransformer(method), SimpleImputer(), logistic()).fit(x, label)
    assert_answers_alike(model, x, label, tmp_path)


@pytest.mark.parametrize("method", ["yeo-johnson", "box-cox"])
@pytest.mark.parametrize("exponent", [1e-12, 1e-5, -1e-4, 1e-2, 0.5, 1.0, 2 - 1e-5, 3.0])
def test_powers_keep_their_digits_near_zero(method, exponent):
    """Of exponents as a logarithmic normal distribution gives them, and of small numbers."""
    x = np.geomspace(1e-6, 1e3, 500)
    x = (x if method == "box-cox" else np.concatenate([-x, x])).astype(np.float32)[:, None]
    step = PowerTransformer(method, standardize=False).fit(np.linspace(0.5, 2, 20)[:, None])
    step.lambdas_ = np.array([exponent])
    graph = transformer_graph(make_pipeline(step), [("x", FloatTensorType([None, 1]))])
    found = onnxruntime.InferenceSession(graph.SerializeToString()).run(None, {"x": x})[0]
    np.testing.assert_allclose(found, step.transform(x.astype(np.float64)), rtol=2e-6, atol=0)


def test_powers_of_zero_are_logarithms(frame, label, tmp_path):
    x = frame[NUMBERS].fillna(0)
    model = make_pipeline(PowerTransformer(), logistic()).fit(x, label)
    model[0].lambdas_ = np.array([2.0, 0.0])
    assert_answers_alike(model, x, label, tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"knots": "quantile", "include_bias": False},
        {"degree": 2, "extrapolation": "linear"},
        {"degree": 1, "extrapolation": "linear", "n_knots": 2},
        {"extrapolation": "continue"},
        {"extrapolation": "periodic"},
        {"sparse_output": True},
        {"handle_missing": "zeros"},
    ],
)
def test_splines_agree_inside_and_beyond_their_knots(options, frame, label, tmp_path):
    x = frame[NUMBERS] if "handle_missing" in options else frame[NUMBERS].fillna(0)
    target = x["size"].fillna(3) ** 2 + x.age / 10
    middle = (x["size"].fillna(0).abs() < 1).to_numpy()
    model = make_pipeline(SplineTransformer(**options), Ridge()).fit(x[middle], target[middle])
    assert_answers_alike(model, x, target, tmp_path)


@pytest.mark.parametrize(("options", "why"), [({"degree": 0}, "degree=0"), ({"extrapolation": "error"}, "'constant'")])
def test_splines_without_a_way_say_why(options, why, frame, label, tmp_path):
    x = frame[NUMBERS].fillna(0)
    model = make_pipeline(SplineTransformer(**options), Ridge()).fit(x, x["size"])
    with pytest.raises(UnsupportedError, match=why):
        taken(model, x, x["size"], tmp_path)


def mixed():
    """Parts that take the columns in another order than the table's."""
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    return make_column_transformer((OneHotEncoder(), ["city", "flag"]), (numbers, NUMBERS))


@pytest.mark.parametrize(
    "model",
    [
        StackingClassifier(
            [("a", make_pipeline(mixed(), logistic())), ("b", make_pipeline(mixed(), RandomForestClassifier(3)))]
        ),
        CalibratedClassifierCV(make_pipeline(mixed(), logistic()), cv=3),
        make_pipeline(make_column_transformer((StandardScaler(), ["age", "flag"])), logistic()),
        make_pipeline(make_column_transformer(("passthrough", ["flag", "age"])), logistic()),
        make_pipeline(mixed(), SelectKBest(mutual_info_classif, k=2), logistic()),
        make_pipeline(mixed(), RFE(logistic(), n_features_to_select=2)),
    ],
)
def test_columns_in_another_order_stay_in_it(model, frame, label, tmp_path):
    x = frame.drop(columns="empty")
    assert_answers_alike(model.fit(x, label), x, label, tmp_path)


def test_the_first_column_alone_can_be_selected(frame, label, tmp_path):
    x = frame[NUMBERS].fillna(0)
    model = make_pipeline(make_union(PCA(1), SelectKBest(k=1)), logistic()).fit(x, label)
    assert model[0].transformer_list[1][1].get_support()[0]
    assert_answers_alike(model, x, label, tmp_path)


def test_a_frozen_model_is_the_one_inside(frame, label, tmp_path):
    x = frame.drop(columns="empty")
    inner = make_pipeline(mixed(), logistic()).fit(x, label)
    assert_answers_alike(CalibratedClassifierCV(FrozenEstimator(inner)).fit(x, label), x, label, tmp_path)


def test_categories_beside_booleans_are_objects(frame, label, tmp_path):
    x = frame.drop(columns="empty")
    columns = make_column_transformer((OrdinalEncoder(), ["city"]), remainder="passthrough")
    trees = HistGradientBoostingClassifier(max_iter=5, categorical_features=[0])
    assert_answers_alike(make_pipeline(columns, trees).fit(x, label), x, label, tmp_path)


@pytest.mark.parametrize(
    "encoder",
    [OneHotEncoder(handle_unknown="ignore"), OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)],
)
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Paris"])
def test_a_point_in_time_and_a_truth_that_the_encoder_never_saw_are_unknown(encoder, zone, frame, label, tmp_path):
    when = pd.to_datetime(CHANCE.choice(["2024-01-01", "2024-02-01"], ROWS)).tz_localize(zone)
    x = frame[["age"]].assign(when=when, flag=True)
    model = make_pipeline(make_column_transformer((encoder, ["when", "flag"]), remainder="passthrough"), logistic())
    model.fit(x, label)
    x.loc[3, "when"], x.loc[4, "flag"] = pd.Timestamp("2025-05-05", tz=zone), False
    intake = assert_answers_alike(model, x, label, tmp_path)
    assert sum("was not trained on" in note for note in intake.dataset.notes) == 2


def test_a_refused_row_is_not_taken_for_a_refused_blank(frame, label, tmp_path):
    x = frame[NUMBERS].assign(flag=True)
    columns = make_column_transformer((OrdinalEncoder(), ["flag"]), (SimpleImputer(), NUMBERS))
    model = make_pipeline(columns, logistic()).fit(x, label)
    with pytest.raises(InputError, match="unknown categories"):
        taken(model, x.assign(flag=False), label, tmp_path)
