import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler

from edgewright.intake.exact_trees import largest_passing, with_float32_thresholds

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
