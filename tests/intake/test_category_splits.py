"""Trees that split on sets of categories answer as their own library, on every kind of cell."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, VotingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from edgewright.data import DataSpec
from edgewright.errors import ConversionError, UnsupportedError
from edgewright.intake.pickle_guard import load_model
from edgewright.intake.sklearn_source import answers
from tests.intake.table_models import assert_device_agrees, on_device, raw_rows, taken, written

pytestmark = pytest.mark.filterwarnings("ignore")
NAN = {"handle_unknown": "use_encoded_value", "unknown_value": np.nan, "encoded_missing_value": np.nan}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return written(tmp_path_factory.mktemp("splits"))


def categorical(frame, *columns):
    return frame.assign(**{c: frame[c].astype("category") for c in columns})


def booster(kind="classifier", **options):
    made = HistGradientBoostingClassifier if kind == "classifier" else HistGradientBoostingRegressor
    return made(max_iter=20, random_state=0, **options)


def light(kind="classifier", **options):
    lightgbm = pytest.importorskip("lightgbm")
    made = lightgbm.LGBMClassifier if kind == "classifier" else lightgbm.LGBMRegressor
    return made(n_estimators=15, num_leaves=12, min_data_per_group=2, cat_smooth=1, verbose=-1, **options)


COLUMNS = ["garage", "city", "rooms", "area"]


def coded(model, *, scaled=False):
    numbers = StandardScaler() if scaled else "passthrough"
    parts = [("c", OrdinalEncoder(**NAN), ["garage", "city"]), ("n", numbers, ["rooms", "area"])]
    return make_pipeline(ColumnTransformer(parts), model)


MODELS = {
    "histogram, behind an encoder": lambda: coded(booster(categorical_features=[0, 1])),
    "histogram, numbers scaled": lambda: coded(booster(categorical_features=[0, 1]), scaled=True),
    "histogram, by name": lambda: booster(categorical_features=["garage", "city"]),
    "histogram, by dtype": booster,
    "lightgbm, behind an encoder": lambda: coded(light(categorical_feature=[0, 1])),
    "lightgbm, numbers scaled": lambda: coded(light(categorical_feature=[0, 1]), scaled=True),
    "lightgbm, by dtype": light,
    "two of them voting": lambda: VotingClassifier([("a", booster()), ("b", light())], voting="soft"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_classifier_agrees_on_every_row(name, path, tmp_path):
    model, frame = MODELS[name](), pd.read_csv(path)
    rows = categorical(frame[COLUMNS], "garage", "city") if "dtype" in name or "voting" in name else frame[COLUMNS]
    model.fit(rows[:300], frame["sold"][:300])
    intake = taken(model, tmp_path, DataSpec(path=path, target="sold"))
    assert_device_agrees(intake, model, rows, frame[COLUMNS])
    made_so = any("knows as categorical were made so" in note for note in intake.dataset.notes)
    assert made_so == ("dtype" in name or "voting" in name)
    unseen = frame[COLUMNS].head(40).assign(city="atlantis", garage=[None, "attached"] * 20)
    told = categorical(unseen, "garage", "city") if made_so else unseen
    expected = answers(model, told)[0]
    for got in on_device(intake, raw_rows(unseen)):
        np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["histogram", "lightgbm"])
@pytest.mark.parametrize(
    "columns", [["rooms", "area"], ["id", "area"], ["new", "area"]], ids=["blanks", "large", "bool"]
)
def test_numbers_as_categories_of_pandas(kind, columns, path, tmp_path):
    frame = pd.read_csv(path)
    model = booster("regressor") if kind == "histogram" else light("regressor")
    rows = categorical(frame[columns], columns[0])
    model.fit(rows, frame["price"])
    intake = taken(model, tmp_path, DataSpec(path=path, target="price"))
    assert_device_agrees(intake, model, rows, frame[columns])


@pytest.mark.parametrize("kind", ["histogram", "lightgbm"])
def test_codes_in_an_array(kind, path, tmp_path):
    """No table, no vocabulary: codes are numbers, one is missing, and one was never seen."""
    frame = pd.read_csv(path)
    codes = OrdinalEncoder(**NAN).fit_transform(frame[["garage", "city"]])
    x = np.column_stack([codes, frame["area"]]).astype(np.float32)
    model = (
        booster("regressor", categorical_features=[0, 1])
        if kind == "histogram"
        else light("regressor", categorical_feature=[0, 1])
    )
    model.fit(x[:300].astype(np.float64), frame["price"][:300])
    x[300::7, 1] = 200
    np.savez(
        tmp_path / "d.npz", x_train=x[:300], y_train=frame["price"][:300], x_test=x[300:], y_test=frame["price"][300:]
    )
    intake = taken(model, tmp_path, DataSpec(path=tmp_path / "d.npz"))
    stored = np.load(intake.dataset.artifact.path)
    expected = model.predict(x[300:].astype(np.float64))
    np.testing.assert_allclose(stored["test.reference.prediction"][:, 0], expected)
    np.testing.assert_array_equal(stored["test.x.features"], x[300:])
    import onnxruntime

    session = onnxruntime.InferenceSession(intake.model.onnx.path)
    np.testing.assert_allclose(session.run(None, {"features": x[300:]})[0][:, 0], expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_a_regression_of_any_loss(loss, path, tmp_path):
    frame = pd.read_csv(path)
    frame["price"] = (frame["price"] - frame["price"].min() + 1).round(2)
    frame.to_csv(tmp_path / "t.csv", index=False)
    model = booster("regressor", loss=loss, categorical_features=["city"]).fit(frame[["city", "area"]], frame["price"])
    intake = taken(model, tmp_path, DataSpec(path=tmp_path / "t.csv", target="price"))
    assert_device_agrees(intake, model, frame[["city", "area"]], frame[["city", "area"]])


def test_a_scaled_category_is_refused_where_its_codes_are_no_longer_exact(path, tmp_path):
    """A scaler over the codes moves them, in float64 there and in float32 here: the difference is found and named."""
    frame = pd.read_csv(path)
    parts = [
        ("c", make_pipeline(OrdinalEncoder(), StandardScaler(with_std=False)), ["city"]),
        ("n", "passthrough", ["area"]),
    ]
    model = make_pipeline(ColumnTransformer(parts), booster(categorical_features=[0]))
    model.fit(frame[["city", "area"]], frame["sold"])
    with pytest.raises(
        ConversionError, match=r"not what the model's own predict says on \d+ of 120 .*; column 'city'$"
    ):
        taken(model, tmp_path, DataSpec(path=path, target="sold"))


def test_categories_of_xgboost_are_refused_with_the_way_out(path, tmp_path):
    xgboost = pytest.importorskip("xgboost")
    frame = pd.read_csv(path)
    model = xgboost.XGBClassifier(n_estimators=3, enable_categorical=True)
    model.fit(categorical(frame[["city", "area"]], "city"), (frame["sold"] == "yes").astype(int))
    with pytest.raises(
        UnsupportedError, match=r"XGBClassifier over categorical columns .* OneHotEncoder or OrdinalEncoder"
    ):
        taken(model, tmp_path, DataSpec(path=path, target="sold"))


def test_sparse_columns_before_lightgbm(path, tmp_path):
    frame = pd.read_csv(path)
    parts = [("c", OneHotEncoder(handle_unknown="ignore"), ["garage", "city"]), ("n", "passthrough", ["area"])]
    model = make_pipeline(ColumnTransformer(parts), light()).fit(frame[["garage", "city", "area"]], frame["sold"])
    intake = taken(model, tmp_path, DataSpec(path=path, target="sold"))
    assert_device_agrees(intake, model, frame[["garage", "city", "area"]], frame[["garage", "city", "area"]])


def test_the_input_check_of_a_pickle_calls_nothing_of_the_files(path, tmp_path):
    """`functools.partial` stands in a fitted model for one function with one set of arguments; no other one loads."""
    from functools import partial

    from edgewright.errors import UntrustedModelError

    frame = pd.read_csv(path)
    model = booster(categorical_features=["city"]).fit(frame[["city", "area"]], frame["sold"])
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(model))
    loaded = load_model(tmp_path / "m.pkl")
    np.testing.assert_array_equal(loaded.predict(frame[["city", "area"]]), model.predict(frame[["city", "area"]]))
    check = model._preprocessor.named_transformers_["numerical"].func
    from sklearn.utils import check_array

    for other in (partial(check_array, ensure_all_finite=True), partial(check_array, [1]), partial(np.ndarray)):
        model._preprocessor.named_transformers_["numerical"].func = other
        (tmp_path / "other.pkl").write_bytes(pickle.dumps(model))
        with pytest.raises(UntrustedModelError, match=r"functools\.partial"):
            load_model(tmp_path / "other.pkl")
    assert check.func is check_array
