"""Which columns a part of a ColumnTransformer takes, and in which order: as scikit-learn itself does it."""

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from lightgbm import LGBMClassifier
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, OrdinalEncoder, PolynomialFeatures, StandardScaler
from xgboost import XGBClassifier

from edgewright.data import DataSpec
from edgewright.intake.sklearn_source import answers, to_onnx
from tests.intake.table_models import assert_device_agrees, taken, written

pytestmark = pytest.mark.filterwarnings("ignore")

_LINEAR = LogisticRegression
_MASK = [True, False, True]


def parts(*given, **options):
    return ColumnTransformer([(f"part{i}", part, columns) for i, (part, columns) in enumerate(given)], **options)


@pytest.fixture(scope="module")
def rows():
    """Columns of different scales, so that none stands for another."""
    chance = np.random.default_rng(0)
    x = (chance.normal(size=(300, 3)) * [1, 10, 1] + [0, 0, 3]).round(2)
    return x, (x[:, 0] + x[:, 1] / 30 + x[:, 2] > 3).astype(int)


def assert_graph_agrees(model, rows):
    x, y = rows
    model.fit(x, y)
    session = onnxruntime.InferenceSession(to_onnx(model, 3, decimals=True).SerializeToString())
    found = session.run(None, {session.get_inputs()[0].name: x.astype(np.float32)})[0]
    np.testing.assert_allclose(found, answers(model, x)[0], atol=1e-5)


@pytest.mark.parametrize(
    "columns",
    [
        [2, 1, 0],
        [1, 0, 2],
        np.array([2, 0, 1]),
        [0, 0, 1],
        [0, 1, 2, 0],
        [-1, 0],
        [-1, -2, -3],
        slice(2, None, -1),
        slice(1, None),
        slice(-2, None),
        slice(0, None, 2),
        _MASK,
        np.array([False, True, True]),
        [True, True, True],
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["scaled", "passed", "trees", "chained", "remainder"])
def test_columns_of_a_bare_array(columns, kind, rows):
    model = {
        "scaled": lambda: make_pipeline(parts((StandardScaler(), columns)), _LINEAR()),
        "passed": lambda: make_pipeline(parts(("passthrough", columns)), HistGradientBoostingClassifier(max_iter=5)),
        "trees": lambda: make_pipeline(parts((StandardScaler(), columns)), RandomForestClassifier(4, random_state=0)),
        "chained": lambda: make_pipeline(parts((make_pipeline(SimpleImputer(), MinMaxScaler()), columns)), _LINEAR()),
        "remainder": lambda: make_pipeline(parts((StandardScaler(), columns), remainder="passthrough"), _LINEAR()),
    }[kind]()
    assert_graph_agrees(model, rows)


_BACK = [2, 1, 0]


@pytest.mark.parametrize(
    "model",
    [
        make_pipeline(parts((StandardScaler(), [2, 0]), (MinMaxScaler(), [0, 2, 1])), _LINEAR()),
        make_pipeline(parts((parts((StandardScaler(), [1, 0]), remainder="passthrough"), [2, 0, 1])), _LINEAR()),
        make_pipeline(parts((make_pipeline(SimpleImputer(), parts((MinMaxScaler(), [1, 0]))), [2, 1])), _LINEAR()),
        make_pipeline(parts((StandardScaler(), _BACK)), parts(("passthrough", [1, 2, 0])), _LINEAR()),
        make_pipeline(parts((StandardScaler(), []), (MinMaxScaler(), [1, 0])), _LINEAR()),
        make_pipeline(parts((StandardScaler(), [False] * 3), (MinMaxScaler(), [1, 0])), _LINEAR()),
        make_pipeline(parts(("drop", [1]), (StandardScaler(), [2, 0])), _LINEAR()),
        make_pipeline(parts((StandardScaler(), [2]), remainder=MinMaxScaler()), _LINEAR()),
        make_pipeline(parts((StandardScaler(), _BACK), transformer_weights={"part0": 3.0}), _LINEAR()),
        make_pipeline(FeatureUnion([("a", parts((StandardScaler(), _BACK))), ("b", MinMaxScaler())]), _LINEAR()),
        make_pipeline(FeatureUnion([("a", "drop"), ("b", MinMaxScaler()), ("c", "passthrough")]), _LINEAR()),
        make_pipeline(FeatureUnion([("a", StandardScaler())], transformer_weights={"a": 2.0}), _LINEAR()),
        make_pipeline(parts((PolynomialFeatures(2), _BACK)), _LINEAR()),
        make_pipeline(parts((PCA(2), _BACK)), _LINEAR()),
        make_pipeline(parts((StandardScaler(), _BACK)), SelectKBest(k=2), RandomForestClassifier(5, random_state=0)),
        make_pipeline(StandardScaler(), SelectKBest(k=3), XGBClassifier(n_estimators=5)),
        make_pipeline(parts(("passthrough", _BACK)), LGBMClassifier(n_estimators=5, verbose=-1)),
        VotingClassifier(
            [("a", make_pipeline(parts((StandardScaler(), _BACK)), _LINEAR())), ("b", _LINEAR())], voting="soft"
        ),
        StackingClassifier(
            [("a", make_pipeline(parts((StandardScaler(), _BACK)), _LINEAR())), ("b", _LINEAR())], passthrough=True
        ),
    ],
    ids=lambda model: type(model).__name__ if not hasattr(model, "steps") else None,
)
def test_parts_that_meet_columns_in_another_order(model, rows):
    assert_graph_agrees(model, rows)


@pytest.mark.parametrize(
    ("part", "final"),
    [
        (OneHotEncoder(handle_unknown="ignore"), _LINEAR()),
        (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), HistGradientBoostingClassifier()),
        (make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore")), _LINEAR()),
    ],
    ids=["one_hot", "ordinal", "imputed"],
)
@pytest.mark.parametrize("columns", [["city", "garage"], slice(1, None, -1), make_column_selector("^[cg]"), [1, 0]])
def test_columns_of_a_table_in_another_order(part, final, columns, tmp_path):
    path = written(tmp_path)
    frame = pd.read_csv(path)[["garage", "city", "sold"]]
    frame.to_csv(path, index=False)
    given = frame[["garage", "city"]]
    model = make_pipeline(parts((part, columns)), final).fit(given, frame.sold)
    intake = taken(model, tmp_path, DataSpec(path=path, target="sold"))
    assert_device_agrees(intake, model, given, given)
