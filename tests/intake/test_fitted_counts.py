"""Counts that do not fit their arrays: compiled code would read, or write, memory that is not its own."""

import pickle
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.cluster import KMeans
from sklearn.ensemble import (
    BaggingClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.multioutput import ClassifierChain
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR, NuSVC, OneClassSVM
from sklearn.tree import DecisionTreeClassifier

from edgewright.errors import InputError
from edgewright.intake.pickle_guard import load_model

pytestmark = pytest.mark.filterwarnings("ignore")

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(90, 5))
X[:, 4] = RANDOM.integers(0, 6, 90)
Y = RANDOM.integers(0, 3, 90)


def loaded(model, folder):
    (folder / "m.pkl").write_bytes(pickle.dumps(model))
    return load_model(folder / "m.pkl")


def histograms():
    return HistGradientBoostingClassifier(max_iter=3, categorical_features=[4], min_samples_leaf=3)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what scikit-learn will remove, and files still hold
    SOUND = {
        "svc": SVC().fit(X, Y),
        "of two": SVC(probability=True).fit(X, Y > 0),
        "nu": NuSVC(nu=0.1).fit(X, Y),
        "sparse": SVC().fit(sp.csr_matrix(X), Y),
        "precomputed": SVC(kernel="precomputed").fit(X @ X.T, Y),
        "svr": SVR().fit(X, Y),
        "one class": OneClassSVM().fit(X),
        "unfitted": SVC(),
        "tree": DecisionTreeClassifier().fit(X, Y),
        "forest": RandomForestClassifier(4).fit(X, Y),
        "extra": ExtraTreesRegressor(3).fit(X, Y),
        "bagging": BaggingClassifier(max_features=3, n_estimators=3).fit(X, Y),
        "bagged neighbours": BaggingClassifier(SVC(), n_estimators=2).fit(X, Y),
        "isolation": IsolationForest(n_estimators=3, max_features=0.5).fit(X),
        "boosting": GradientBoostingClassifier(n_estimators=2).fit(X, Y),
        "started by": GradientBoostingClassifier(n_estimators=2, init=SVC(probability=True)).fit(X, Y),
        "histograms": histograms().fit(X, Y),
        "k-means": KMeans(3, n_init=1).fit(X),
        "chain": ClassifierChain(DecisionTreeClassifier()).fit(X, np.stack([Y > 0, Y > 1], 1)),
        "pipeline": make_pipeline(StandardScaler(), SVC()).fit(X, Y),
    }


@pytest.mark.parametrize("name", SOUND)
def test_what_scikit_learn_fitted_is_taken(name, tmp_path):
    assert type(loaded(SOUND[name], tmp_path)) is type(SOUND[name])


def put(**values):
    return lambda model: vars(model).update(values)


def changed(name, change):
    return lambda model: vars(model).update({name: change(getattr(model, name))})


def with_a_tree_of_more_features(model):
    wide = RandomForestClassifier(1).fit(np.concatenate([X, X], 1), Y).estimators_[0]
    wide.n_features_in_ = 5
    model.estimators_[-1] = wide


def with_wide_stages(model):
    model.estimators_ = np.concatenate([model.estimators_] * 4, axis=1)


def by_node(name, value):
    def change(model):
        nodes = model._predictors[0][0].nodes
        nodes[name][(nodes["is_leaf"] == 0) & ((nodes["is_categorical"] != 0) | (name == "feature_idx"))] = value

    return change


def without(name):
    return lambda model: vars(model).pop(name)


ONE = np.ones
ATTACKS = {
    "counts of more vectors": ("svc", put(_n_support=np.array([900, 900, 900], np.int32))),
    "counts of other classes": ("svc", changed("_n_support", lambda n: np.array([*n[:-1], 1, n[-1] - 1], np.int32))),
    "negative counts": ("svc", changed("_n_support", lambda n: np.array([-5, n[0] + n[1] + 5, n[2]], np.int32))),
    "no class": ("svc", put(_n_support=np.array([], np.int32))),
    "few coefficients": ("svc", changed("_dual_coef_", lambda a: a[:, :3])),
    "one row of coefficients": ("svc", changed("_dual_coef_", lambda a: a[:1])),
    "other coefficients": ("svc", changed("dual_coef_", lambda a: a[:, :3])),
    "few intercepts": ("svc", changed("_intercept_", lambda a: a[:1])),
    "few vectors": ("svc", changed("support_vectors_", lambda a: a[:2])),
    "narrow vectors": ("svc", changed("support_vectors_", lambda a: a[:, :2].copy())),
    "few sparse vectors": ("sparse", changed("support_vectors_", lambda a: a[:2])),
    "few probabilities": ("of two", put(_probA=ONE(1), _probB=ONE(0))),
    "rows that are not there": ("precomputed", changed("support_", lambda a: a + 10**6)),
    "a regressor's coefficients": ("svr", changed("_dual_coef_", lambda a: a[:, :1])),
    "a regressor of many classes": ("svr", put(_n_support=ONE(9, np.int32))),
    "an outlier's vectors": ("one class", changed("support_vectors_", lambda a: a[:1])),
    "no coefficients": ("svc", without("_dual_coef_")),
    "a text for a count": ("svc", put(_n_support="three")),
    "a tree of more features": ("tree", put(n_features_in_=1)),
    "a tree of unknown features": ("tree", without("n_features_in_")),
    "a forest's tree": ("forest", with_a_tree_of_more_features),
    "a bag's tree": ("bagging", changed("estimators_features_", lambda a: [own[:1] for own in a])),
    "fewer bags": ("isolation", changed("estimators_features_", lambda a: a[:1])),
    "a booster's columns": ("boosting", with_wide_stages),
    "a booster's features": ("boosting", put(n_features_in_=1)),
    "a histogram's feature": ("histograms", by_node("feature_idx", 10**6)),
    "a histogram's set": ("histograms", by_node("bitset_idx", 10**6)),
    "narrow sets": ("histograms", lambda m: put(raw_left_cat_bitsets=ONE((9, 1), np.uint32))(m._predictors[0][0])),
    "narrow centres": ("k-means", changed("cluster_centers_", lambda a: a[:, :1].copy())),
    "in a pipeline": ("pipeline", lambda m: put(_n_support=np.array([900] * 3, np.int32))(m[-1])),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_counts_that_do_not_fit_are_one_clear_error(name, tmp_path):
    kind, change = ATTACKS[name]
    model = pickle.loads(pickle.dumps(SOUND[kind]))
    change(model)
    with pytest.raises(InputError, match=r"m\.pkl: damaged: \w+ (whose counts do not fit|with arrays of no)") as e:
        loaded(model, tmp_path)
    assert "\n" not in str(e.value)
