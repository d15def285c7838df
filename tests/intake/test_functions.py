"""Functions of numpy in a model, by their names: before it, and on its target."""

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, PowerTransformer, QuantileTransformer, StandardScaler

from edgewright.data import DataSpec
from edgewright.errors import UnsupportedError, UntrustedModelError
from edgewright.intake.elementwise_steps import _WRITE
from edgewright.intake.pickle_names import EXACT
from tests.intake.table_models import assert_device_agrees, taken

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def prices(tmp_path_factory):
    chance = np.random.default_rng(6)
    frame = pd.DataFrame({"area": chance.gamma(3, 40, 400).round(1) + 1, "age": chance.integers(1, 90, 400)})
    frame["price"] = np.exp(8 + 0.7 * np.log1p(frame.area) - 0.006 * frame.age + chance.normal(0, 0.1, 400)).round(0)
    path = tmp_path_factory.mktemp("prices") / "prices.csv"
    frame.to_csv(path, index=False)
    return pd.read_csv(path), path


def agrees(model, prices, folder, target="price"):
    frame, path = prices
    model.fit(frame[["area", "age"]], frame[target])
    intake = taken(model, folder, DataSpec(path=path, target=target))
    assert_device_agrees(intake, model, frame[["area", "age"]], frame[["area", "age"]])
    return intake


@pytest.mark.parametrize("name", sorted(_WRITE))
def test_each_function_before_a_model(name, prices, tmp_path):
    """Of numbers that keep every function finite."""
    shrunk = make_pipeline(FunctionTransformer(np.log1p), FunctionTransformer(getattr(np, name)), Ridge())
    agrees(shrunk, prices, tmp_path)


@pytest.mark.parametrize(
    ("func", "inverse"), [("log1p", "expm1"), ("log", "exp"), ("sqrt", "square"), ("log2", "exp2"), ("cbrt", None)]
)
@pytest.mark.parametrize("kind", ["linear", "trees"])
def test_each_pair_on_the_target(func, inverse, kind, prices, tmp_path):
    if inverse is None:
        pytest.skip("numpy has no function that cubes a number")
    inner = Ridge() if kind == "linear" else GradientBoostingRegressor(n_estimators=10, random_state=0)
    model = make_pipeline(StandardScaler(), inner)
    agrees(
        TransformedTargetRegressor(model, func=getattr(np, func), inverse_func=getattr(np, inverse)), prices, tmp_path
    )


def test_logarithms_of_some_columns(prices, tmp_path):
    log = make_pipeline(
        SimpleImputer(), FunctionTransformer(np.log1p, feature_names_out="one-to-one"), StandardScaler()
    )
    parts = [("log", log, ["area"]), ("age", StandardScaler(), ["age"])]
    agrees(make_pipeline(ColumnTransformer(parts), Ridge()), prices, tmp_path)


@pytest.mark.parametrize(
    "model", [make_pipeline(PowerTransformer(), Ridge()), make_pipeline(QuantileTransformer(n_quantiles=50), Ridge())]
)
def test_other_ways_to_straighten_a_column(model, prices, tmp_path):
    agrees(model, prices, tmp_path)


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        (
            make_pipeline(QuantileTransformer(n_quantiles=50, output_distribution="normal"), Ridge()),
            UnsupportedError,
            "output_distribution='normal' .* 'uniform'",
        ),
        (
            TransformedTargetRegressor(Ridge(), transformer=PowerTransformer()),
            UnsupportedError,
            "TransformedTargetRegressor with a PowerTransformer: functions of numpy and linear scalers",
        ),
        (make_pipeline(FunctionTransformer(np.arcsinh), Ridge()), UntrustedModelError, r"asks for numpy\.arcsinh"),
    ],
)
def test_what_has_no_path_is_refused_by_its_reason(model, error, words, prices, tmp_path):
    frame, path = prices
    model.fit(frame[["area", "age"]], frame["price"])
    with pytest.raises(error, match=words) as raised:
        taken(model, tmp_path, DataSpec(path=path, target="price"))
    assert "\n" not in str(raised.value)


def test_every_function_with_a_path_may_stand_in_a_pickle_and_no_other_may():
    assert {f"numpy.{name}" for name in _WRITE} <= EXACT
    allowed = {
        name.removeprefix("numpy.")
        for name in EXACT
        if isinstance(getattr(np, name.removeprefix("numpy."), 0), np.ufunc)
    }
    assert allowed == set(_WRITE)
