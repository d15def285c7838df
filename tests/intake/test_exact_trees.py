import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, PowerTransformer, RobustScaler, StandardScaler

from edgewright.intake.column_steps import Picked
from edgewright.intake.exact_trees import computed_features, largest_passing, with_float32_thresholds

finite32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(x=finite32, threshold=st.floats(-1e30, 1e30))
def test_the_float32_threshold_decides_as_the_float64_one(x, threshold):
    found = largest_passing(np.array([threshold]), lambda v: v)[0]
    assert (np.float32(x) <= found) == (np.float64(np.float32(x)) <= threshold)


@given(x=st.floats(-1e6, 1e6, width=32), mean=st.floats(-1e4, 1e4), scale=st.floats(1e-3, 1e4), t=st.floats(-5, 5))
def test_a_threshold_behind_a_scaler_decides_as_scaling_first(x, mean, scale, t):
    def scaling(v):
        return (v - mean) / scale

    found = largest_passing(np.array([t]), scaling)[0]
    scaled = np.float64(np.float32(scaling(np.float64(np.float32(x)))))
    assert (np.float32(x) <= found) == (scaled <= t)


@given(cents=st.integers(-10_000_00, 10_000_00), near=st.integers(-3, 3))
def test_a_decimal_on_the_threshold_itself_is_decided_as_in_float64(cents, near):
    """A price of 99.10 against a threshold of 99.10: float32 and float64 hold different numbers for it."""
    price, threshold = cents / 100, (cents + near) / 100
    found = largest_passing(np.array([threshold]), lambda v: v * 1.0, decimals=True)[0]
    scaled_like_sklearn = np.float64(np.float32(price)) <= threshold
    assert (np.float32(price) <= found) == scaled_like_sklearn


@pytest.mark.parametrize("scaler", [StandardScaler(), MinMaxScaler(), RobustScaler(), MaxAbsScaler()])
def test_scalers_are_taken_out_without_changing_an_answer(scaler):
    random = np.random.default_rng(0)
    x = random.normal(5, 30, (400, 6)).astype(np.float32).astype(np.float64)
    y = (x[:, 0] * x[:, 1] > 20).astype(int)
    model = make_pipeline(scaler, RandomForestClassifier(10, random_state=0)).fit(x, y)
    changed = with_float32_thresholds(model, decimals=False)
    np.testing.assert_array_equal(changed[-1].predict_proba(x), model.predict_proba(x))
    np.testing.assert_array_equal(changed[0].transform(x), x)
    assert changed is not model
    assert model[-1].estimators_[0].tree_.threshold.dtype == np.float64


def test_a_measured_number_that_is_a_threshold_passes_in_float32():
    """Histogram boosting takes numbers of training rows as thresholds where there are more than bins."""
    random = np.random.default_rng(0)
    x = random.normal(size=(400, 3))
    model = HistGradientBoostingRegressor(max_iter=20).fit(x, x[:, 0] * x[:, 1] + x[:, 2])
    changed = with_float32_thresholds(model, decimals=True)
    np.testing.assert_array_equal(changed.predict(x.astype(np.float32)), model.predict(x))
    # Held to floats as they are, the rows on a threshold would go the other way.
    assert (model.predict(x.astype(np.float32)) != model.predict(x)).any()


def test_prices_keep_their_threshold_halfway():
    prices = np.arange(1, 401)[:, None] / 100
    model = HistGradientBoostingRegressor(max_iter=20, max_bins=100).fit(prices, np.sin(prices[:, 0] * 5))
    changed = with_float32_thresholds(model, decimals=True)
    np.testing.assert_array_equal(changed.predict(prices.astype(np.float32)), model.predict(prices))


def test_a_threshold_on_a_computed_feature_moves_up_by_more_than_a_device_rounds():
    random = np.random.default_rng(0)
    x = random.normal(size=(400, 6)) * 30
    model = make_pipeline(PCA(3), HistGradientBoostingRegressor(max_iter=20)).fit(x, x[:, 0] * x[:, 1] + x[:, 2])
    single = model[0].transform(x).astype(np.float32)
    noisy = single * (1 + random.uniform(-5e-7, 5e-7, single.shape)).astype(np.float32)
    changed = with_float32_thresholds(model, decimals=False)
    expected = model.predict(x)
    assert (model[-1].predict(noisy) != expected).sum() > 20
    np.testing.assert_array_equal(changed[-1].predict(noisy), expected)


def test_which_features_a_step_computed():
    x = np.random.default_rng(0).normal(size=(50, 5))
    picking = ColumnTransformer([("pca", PCA(2), [0, 1, 2]), ("filled", SimpleImputer(), [3])], remainder="passthrough")
    assert computed_features([picking.fit(x)], 4) == {0, 1}
    assert computed_features([SimpleImputer().fit(x)], 5) == set()
    assert computed_features([PowerTransformer().fit(x)], 5) == set(range(5))
    chosen = [PCA(4).fit(x), Picked([1, 3])]
    assert computed_features(chosen, 2) == {0, 1}
    # Behind other steps nobody follows which column became which feature.
    behind = ColumnTransformer([("rest", "passthrough", [0, 1])]).fit(x[:, :4])
    assert computed_features([PCA(4).fit(x), behind], 2) == {0, 1}
