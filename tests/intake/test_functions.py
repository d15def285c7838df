"""Functions of numpy in a model, by their names: before it, and on its target."""

import pickle

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from skl2onnx.common.data_types import FloatTensorType
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, PowerTransformer, QuantileTransformer, StandardScaler

from edgewright.data import DataSpec
from edgewright.errors import UnsupportedError, UntrustedModelError
from edgewright.intake.elementwise_steps import _WRITE
from edgewright.intake.estimator_graph import transformer_graph
from edgewright.intake.pickle_guard import load_model
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
    shrunk = [FunctionTransformer(np.log1p)]
    if name in {"arccos", "arcsin", "arctanh"}:
        shrunk += [FunctionTransformer(np.negative), FunctionTransformer(np.exp)]
    if name == "arccosh":
        shrunk += [FunctionTransformer(np.exp)]
    agrees(make_pipeline(*shrunk, FunctionTransformer(getattr(np, name)), Ridge()), prices, tmp_path)


_ENDS = {"arccos": 1, "arcsin": 1, "arctanh": 0.9999, "exp": 20, "exp2": 20, "expm1": 20, "cosh": 20, "sinh": 20}
_ABOVE = {"arccosh": 1.0, "log": 1e-6, "log10": 1e-6, "log2": 1e-6, "log1p": -0.99, "sqrt": 0.0, "reciprocal": 1e-3}


@pytest.mark.parametrize("name", sorted(_WRITE))
def test_each_function_as_numpy_has_it(name):
    """On both sides of zero, near it, and up to the ends of what it is defined on."""
    end = _ENDS.get(name, 1e4 if name.startswith("arc") else 100.0)
    magnitudes = np.concatenate([np.geomspace(1e-4, end, 400), [end, 0.5, 2.5, 1.5], [0.0] * (name != "reciprocal")])
    x = np.concatenate([-magnitudes, magnitudes]).astype(np.float32)[:, None]
    x = x[(x[:, 0] >= _ABOVE.get(name, -np.inf)) & (np.abs(x[:, 0]) <= end)]
    x = np.concatenate([x, [[np.nan]]]).astype(np.float32) if name == "isnan" else x
    np.testing.assert_allclose(applied(name, x), getattr(np, name)(x.astype(np.float64)), rtol=3e-5, atol=2e-6)


def applied(name, x):
    """What the graph of a function answers."""
    step = FunctionTransformer(getattr(np, name)).fit(x)
    graph = transformer_graph(make_pipeline(step), [("x", FloatTensorType([None, 1]))])
    return onnxruntime.InferenceSession(graph.SerializeToString()).run(None, {"x": x})[0]


_UNBOUNDED = {"arcsinh", "arctan", "cbrt", "degrees", "radians", "deg2rad", "rad2deg", "tanh"}


@pytest.mark.parametrize("name", [*sorted(_UNBOUNDED), "arcsin", "arctanh", "expm1", "log1p", "sin", "sinh", "tan"])
def test_what_is_zero_at_zero_keeps_the_digits_of_a_small_number(name):
    """And is finite of a large one: a scaler behind it would make any loss large."""
    magnitudes = np.concatenate([np.geomspace(1e-30, 0.9, 500), [1e20, 1e30] if name in _UNBOUNDED else []])
    x = np.concatenate([-magnitudes, magnitudes]).astype(np.float32)[:, None]
    np.testing.assert_allclose(applied(name, x), getattr(np, name)(x.astype(np.float64)), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("name", "sign"), [("arccos", 1), ("arccosh", -1), ("arcsin", 1)])
def test_what_ends_at_one_keeps_its_digits_there(name, sign):
    x = (1 - sign * np.geomspace(1e-7, 0.5, 500)).astype(np.float32)[:, None]
    np.testing.assert_allclose(applied(name, x), getattr(np, name)(x.astype(np.float64)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["arccos", "arccosh", "arcsin", "arctanh"])
def test_beyond_its_ends_a_function_is_none(name):
    x = np.array([[1.5], [-1.5]] if name != "arccosh" else [[0.5], [-1.5]], dtype=np.float32)
    assert np.isnan(applied(name, x)).all()


@pytest.mark.parametrize("name", [n for n in dir(np) if getattr(getattr(np, n), "nin", 0) == 1])
def test_every_function_of_one_number_has_a_path_or_a_reason(name, tmp_path):
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(FunctionTransformer(getattr(np, name))))
    if getattr(np, name).__name__ in _WRITE:
        assert load_model(tmp_path / "model.pkl").func is getattr(np, name)
        return
    with pytest.raises(UnsupportedError, match=r"applies the function numpy\.\w+, which has no path; these of numpy"):
        load_model(tmp_path / "model.pkl")


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
        *(
            (
                make_pipeline(FunctionTransformer(function, kw_args=options), Ridge()),
                UnsupportedError,
                rf"applies the function numpy\.{function.__name__}, which has no path; these of numpy have one: abs",
            )
            for function, options in [
                (np.clip, {"a_min": 0, "a_max": 50}),
                (np.round, {"decimals": 1}),
                (np.nan_to_num, None),
                (np.spacing, None),
            ]
        ),
        (
            make_pipeline(FunctionTransformer(np.array), Ridge()),
            UntrustedModelError,
            r"asks for numpy\.array, which is outside the allow-list",
        ),
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
