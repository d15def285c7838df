"""Every kind of scikit-learn model that is supported: its torch graph and its ONNX graph answer as it does itself."""

import pickle

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, RidgeClassifier, SGDClassifier
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import BernoulliNB, ComplementNB, GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, NearestCentroid, RadiusNeighborsClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    KBinsDiscretizer,
    MinMaxScaler,
    Normalizer,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC, SVR, LinearSVC, OneClassSVM
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from edgewright.artifact import Precision
from edgewright.data import DataSpec
from edgewright.errors import ConversionError, UnsupportedError
from edgewright.export import export
from edgewright.intake import child, neighbours_graph, torch_graph
from edgewright.intake.sklearn_source import answers
from edgewright.profile import Platform
from edgewright.store import Store

pytestmark = pytest.mark.filterwarnings("ignore")


def scaled(*parts):
    return make_pipeline(StandardScaler(), *parts)


def logistic():
    return LogisticRegression(max_iter=500)


def forest():
    return RandomForestClassifier(5, max_depth=4, random_state=0)


CLASSIFIERS = {
    "logistic": scaled(logistic()),
    "ridge": scaled(RidgeClassifier()),
    "sgd": scaled(SGDClassifier(random_state=0)),
    "linear svc": scaled(LinearSVC()),
    "svc": scaled(SVC()),
    "svc poly": scaled(SVC(kernel="poly")),
    "svc linear": scaled(SVC(kernel="linear")),
    "svc probability": scaled(SVC(probability=True, random_state=0)),
    "neighbours": scaled(KNeighborsClassifier()),
    "neighbours by distance": scaled(KNeighborsClassifier(weights="distance")),
    "neighbours, raw": KNeighborsClassifier(3, metric="manhattan"),
    "neighbours, minkowski": scaled(KNeighborsClassifier(p=3, weights="distance")),
    "naive bayes": GaussianNB(),
    "naive bayes, bits": scaled(BernoulliNB()),
    "naive bayes, counts": make_pipeline(MinMaxScaler(clip=True), MultinomialNB()),
    "naive bayes, complement": make_pipeline(MinMaxScaler(clip=True), ComplementNB()),
    "tree": DecisionTreeClassifier(random_state=0),
    "deep forest": RandomForestClassifier(10, random_state=0),
    "extra trees": ExtraTreesClassifier(10, random_state=0),
    "boosting": scaled(GradientBoostingClassifier(n_estimators=5, random_state=0)),
    "histogram boosting": scaled(HistGradientBoostingClassifier(max_iter=5)),
    "adaboost": AdaBoostClassifier(n_estimators=5, random_state=0),
    "bagging": BaggingClassifier(n_estimators=3, random_state=0),
    "discriminant": LinearDiscriminantAnalysis(),
    "pca, polynomial": scaled(PCA(4), PolynomialFeatures(2), logistic()),
    **{
        f"robust, normalized by {norm}": make_pipeline(RobustScaler(), Normalizer(norm), logistic())
        for norm in ("l1", "l2", "max")
    },
    "normalized parts": make_pipeline(
        StandardScaler(),
        ColumnTransformer([("a", Normalizer("max"), [0, 3, 2]), ("b", Normalizer("l1"), slice(4, 9))]),
        logistic(),
    ),
    "bins": make_pipeline(
        KBinsDiscretizer(4, encode="onehot-dense", quantile_method="averaged_inverted_cdf"), logistic()
    ),
    "quantiles": make_pipeline(QuantileTransformer(n_quantiles=20), logistic()),
    "power": make_pipeline(PowerTransformer(), logistic()),
    "union, selection": scaled(FeatureUnion([("a", PCA(3)), ("b", SelectKBest(k=4))]), logistic()),
    "imputed": make_pipeline(SimpleImputer(), MinMaxScaler(), logistic()),
    "mlp": scaled(MLPClassifier((8,), max_iter=50, random_state=0)),
    "bins, sparse": make_pipeline(KBinsDiscretizer(4, quantile_method="averaged_inverted_cdf"), logistic()),
    "columns": make_pipeline(
        ColumnTransformer([("a", StandardScaler(), [0, 1, 2]), ("b", PCA(2), [3, 4, 5])], remainder="passthrough"),
        logistic(),
    ),
    "calibrated": CalibratedClassifierCV(GaussianNB()),
    "calibrated pipeline": CalibratedClassifierCV(scaled(SVC())),
    "isotonic": CalibratedClassifierCV(GaussianNB(), method="isotonic"),
    "isotonic decision": scaled(CalibratedClassifierCV(LinearSVC(), method="isotonic")),
    "isotonic trees": scaled(CalibratedClassifierCV(forest(), method="isotonic", ensemble=False)),
    "temperature": scaled(CalibratedClassifierCV(logistic(), method="temperature")),
    "weighted vote": scaled(
        VotingClassifier([("a", logistic()), ("b", forest())], voting="soft", weights=[1, 2]),
    ),
    "weighted heads": VotingClassifier(
        [("a", scaled(logistic())), ("b", GaussianNB()), ("c", forest())], weights=[1, 2, 2]
    ),
    "stacked decisions": scaled(
        StackingClassifier([("a", LinearSVC()), ("b", forest())], final_estimator=logistic(), passthrough=True)
    ),
    "one against rest": scaled(OneVsRestClassifier(SVC())),
    "soft vote": VotingClassifier([("a", scaled(logistic())), ("b", GaussianNB())], voting="soft"),
    "hard vote": VotingClassifier([("a", scaled(logistic())), ("b", GaussianNB()), ("c", DecisionTreeClassifier())]),
    "stacking": StackingClassifier([("a", scaled(logistic())), ("b", GaussianNB())]),
    "grid search": GridSearchCV(scaled(logistic()), {"logisticregression__C": [1, 10]}, cv=2),
}
OTHERS = {
    "linear": LinearRegression(),
    "ridge": Ridge(),
    "svr": scaled(SVR()),
    "neighbours": scaled(KNeighborsRegressor()),
    "tree": DecisionTreeRegressor(random_state=0),
    "forest": RandomForestRegressor(5, random_state=0),
    "boosting": GradientBoostingRegressor(n_estimators=5),
    "histogram boosting": HistGradientBoostingRegressor(max_iter=5),
    "mlp": scaled(MLPRegressor(hidden_layer_sizes=(8,), max_iter=50, random_state=0)),
    "neighbours by distance": KNeighborsRegressor(weights="distance"),
    "counts": HistGradientBoostingRegressor(max_iter=5, loss="poisson"),
    "stacking": StackingRegressor([("a", LinearRegression()), ("b", DecisionTreeRegressor(max_depth=4))]),
    "weighted vote": scaled(VotingRegressor([("a", LinearRegression()), ("b", Ridge())], weights=[1, 3])),
    "target": TransformedTargetRegressor(LinearRegression()),
    "scaled target": TransformedTargetRegressor(LinearRegression(), transformer=StandardScaler()),
    "vote": VotingRegressor([("a", LinearRegression()), ("b", Ridge())]),
    "isolation forest": IsolationForest(n_estimators=10, random_state=0),
    "k-means": scaled(KMeans(3, n_init=1, random_state=0)),
    "one class": scaled(OneClassSVM()),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    made = {}
    for name, bunch in (("classes", load_wine()), ("numbers", load_diabetes())):
        x = bunch.data.astype(np.float32)
        np.savez(folder / f"{name}.npz", x=x, y=bunch.target)
        made[name] = x.astype(np.float64), bunch.target, folder / f"{name}.npz"
    two = load_wine()
    chosen = two.target < 2
    x = two.data[chosen].astype(np.float32)
    np.savez(folder / "two.npz", x=x, y=two.target[chosen])
    made["two"] = x.astype(np.float64), two.target[chosen], folder / "two.npz"
    return made


def taken(model, data, folder):
    x, y, path = data
    model.fit(x[::2], y[::2])
    file = folder / "model.pkl"
    file.write_bytes(pickle.dumps(model))
    spec = DataSpec(path=path)
    return child.take_in(file, spec, folder / "store", "model")


def both_answers(intake, x):
    """Of the torch graph and of ONNX Runtime."""
    assert intake.model.graph is not None, intake.model.graph_refusal
    with torch.no_grad():
        graph = torch_graph.load(intake.model.graph.path)(torch.from_numpy(x)).numpy()
    session = onnxruntime.InferenceSession(intake.model.onnx.path, providers=["CPUExecutionProvider"])
    return graph, session.run(None, {"features": x})[0]


def assert_agrees(intake, model, x):
    """On every row there is, with `predict_proba`, `decision_function` or `predict` of scikit-learn itself."""
    reference, _ = answers(model, x)
    chosen = model.classes_[reference.argmax(axis=1)] if intake.model.labels else None
    for got in both_answers(intake, x.astype(np.float32)):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, reference, rtol=1e-4, atol=1e-4 * np.abs(reference).max())
        if chosen is not None:
            # Where two scores are equal, any rounding decides; and probabilities of libsvm part from its `predict`.
            clear = np.ptp(np.sort(reference, axis=1)[:, -2:], axis=1) > 1e-4 * np.abs(reference).max()
            np.testing.assert_array_equal(model.classes_[got.argmax(axis=1)][clear], chosen[clear])
    if chosen is not None:
        arrays = np.load(intake.dataset.artifact.path)
        apart = (arrays[f"test.reference.{intake.model.outputs[0].name}"].argmax(1) != arrays["test.predicted"]).any()
        assert apart == any("does not name the class of the greatest score" in note for note in intake.model.notes)


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_classifier_of_three_classes_answers_alike(kind, data, tmp_path):
    assert_agrees(taken(CLASSIFIERS[kind], data["classes"], tmp_path), CLASSIFIERS[kind], data["classes"][0])


IN_TWO = """logistic, ridge, sgd, linear svc, svc, svc linear, svc probability, boosting, histogram boosting,
discriminant, hard vote, neighbours by distance, isotonic decision, isotonic trees, temperature, weighted
vote, weighted heads, stacked decisions, one against rest, mlp"""


@pytest.mark.parametrize("kind", IN_TWO.replace("\n", " ").split(", "))
def test_a_classifier_of_two_classes_answers_alike(kind, data, tmp_path):
    """Where one column of scores stands for two classes."""
    assert_agrees(taken(CLASSIFIERS[kind], data["two"], tmp_path), CLASSIFIERS[kind], data["two"][0])


@pytest.mark.parametrize("kind", OTHERS)
def test_a_regressor_or_clustering_answers_alike(kind, data, tmp_path):
    assert_agrees(taken(OTHERS[kind], data["numbers"], tmp_path), OTHERS[kind], data["numbers"][0])


def test_a_linear_kernel_becomes_one_dense_layer(data, tmp_path):
    """Not its products with each support vector, whose dual coefficients nearly cancel: 8 bits would hold neither."""
    intake = taken(scaled(SVC(kernel="linear")), data["two"], tmp_path)
    graph = torch_graph.load(intake.model.graph.path)
    shapes = [tuple(weight.shape) for weight in (*graph.parameters(), *graph.buffers()) if weight.dim() == 2]
    features = data["two"][0].shape[1]
    assert [shape for shape in shapes if 1 not in shape] == []
    assert {shape for shape in shapes if features in shape and 1 in shape}


def test_coupled_probabilities_stay_float32_and_say_why(data, tmp_path):
    intake = taken(scaled(SVC(probability=True, random_state=0)), data["classes"], tmp_path)
    for precision in (Precision.FLOAT16, Precision.INT8):
        with pytest.raises(
            UnsupportedError, match=rf"{precision} cannot hold what SVMClassifier .* without probability"
        ):
            export(intake.model, intake.dataset, Platform.IOS, precision, Store(tmp_path / "store"))
    assert not taken(scaled(SVC()), data["classes"], tmp_path).model.float32_reason


def test_scores_of_pairs_become_scores_of_classes(data, tmp_path):
    """Three pairs of three classes look like a score for each class, and are none."""
    model = scaled(SVC(decision_function_shape="ovo"))
    intake = taken(model, data["classes"], tmp_path)
    x = data["classes"][0]
    for got in both_answers(intake, x.astype(np.float32)):
        np.testing.assert_array_equal(got.argmax(axis=1), model.predict(x))
    assert any("ovo" in note for note in intake.model.notes)


def test_neighbours_of_many_rows_with_large_features(data, tmp_path, monkeypatch):
    """Products of matrices choose the candidates; unscaled features of thousands leave their squares little room."""
    monkeypatch.setattr(neighbours_graph, "_BROADCAST", 1)
    model = KNeighborsClassifier(weights="distance")
    cancer = load_breast_cancer()
    x, path = cancer.data.astype(np.float32), tmp_path / "cancer.npz"
    np.savez(path, x=x, y=cancer.target)
    intake = taken(model, (x.astype(np.float64), cancer.target, path), tmp_path)
    assert_agrees(intake, model, x.astype(np.float64))


def test_thresholds_of_trees_inside_a_vote_meet_the_scaler_before_it(data, tmp_path):
    """Rows that lie on a threshold: the scaler stands before the vote, and is carried into the trees all the same."""
    x, y, _ = data["classes"]
    x = np.round(x * 4) / 4
    trees = VotingClassifier([("a", forest()), ("b", ExtraTreesClassifier(5, random_state=1))], voting="soft")
    path = tmp_path / "rounded.npz"
    np.savez(path, x=x.astype(np.float32), y=y)
    model = scaled(trees)
    intake = taken(model, (x, y, path), tmp_path)
    for got in both_answers(intake, x.astype(np.float32)):
        np.testing.assert_allclose(got, model.predict_proba(x), atol=1e-6)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (scaled(KNeighborsClassifier(metric="cosine")), "metric 'cosine'; known are euclidean"),
        (scaled(RadiusNeighborsClassifier(radius=10)), "ONNX Runtime cannot run"),
        (scaled(NearestCentroid()), "NearestCentroid has no path to ONNX"),
        (make_pipeline(QuantileTransformer(n_quantiles=9, output_distribution="normal"), logistic()), "has no path"),
    ],
)
def test_what_cannot_be_converted_is_refused_by_name(model, words, data, tmp_path):
    with pytest.raises((ConversionError, UnsupportedError), match=words) as error:
        taken(model, data["classes"], tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("model", [KMeans(3, n_init=1, random_state=0), GaussianMixture(3, random_state=0)])
def test_a_cluster_is_the_one_that_predict_names(model, kind, tmp_path):
    """KMeans takes only numbers of the type that it was fitted on; a mixture's probabilities are of no class."""
    x = load_wine().data.astype(np.float32)[:, :3]
    model.fit(x.astype(kind))
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(model))
    expected = model.predict(x.astype(kind))
    np.savez(tmp_path / "d.npz", x=x, y=expected)
    intake = child.take_in(tmp_path / "m.pkl", DataSpec(path=tmp_path / "d.npz"), tmp_path / "s", "model")
    session = onnxruntime.InferenceSession(intake.model.onnx.path, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"features": x})[0].ravel(), expected)
