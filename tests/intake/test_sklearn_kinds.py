"""Every kind of scikit-learn model that is promised: its torch graph and its ONNX graph answer as it does itself."""

import pickle

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes, load_wine
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
    VotingClassifier,
    VotingRegressor,
)
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, RidgeClassifier, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
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

from edgewright.artifact import Intake
from edgewright.data import DataSpec
from edgewright.errors import ConversionError, UntrustedModelError
from edgewright.intake import door, torch_graph

pytestmark = pytest.mark.filterwarnings("ignore")


def scaled(*parts):
    return make_pipeline(StandardScaler(), *parts)


def logistic():
    return LogisticRegression(max_iter=500)


CLASSIFIERS = {
    "logistic": scaled(logistic()),
    "ridge": scaled(RidgeClassifier()),
    "sgd": scaled(SGDClassifier(random_state=0)),
    "linear svc": scaled(LinearSVC()),
    "svc": scaled(SVC()),
    "svc poly": scaled(SVC(kernel="poly")),
    "neighbours": scaled(KNeighborsClassifier()),
    "naive bayes": GaussianNB(),
    "tree": DecisionTreeClassifier(random_state=0),
    "deep forest": RandomForestClassifier(10, random_state=0),
    "extra trees": ExtraTreesClassifier(10, random_state=0),
    "boosting": scaled(GradientBoostingClassifier(n_estimators=5, random_state=0)),
    "histogram boosting": scaled(HistGradientBoostingClassifier(max_iter=5)),
    "adaboost": AdaBoostClassifier(n_estimators=5, random_state=0),
    "bagging": BaggingClassifier(n_estimators=3, random_state=0),
    "discriminant": LinearDiscriminantAnalysis(),
    "pca, polynomial": scaled(PCA(4), PolynomialFeatures(2), logistic()),
    "robust, normalized": make_pipeline(RobustScaler(), Normalizer(), logistic()),
    "bins": make_pipeline(
        KBinsDiscretizer(4, encode="onehot-dense", quantile_method="averaged_inverted_cdf"), logistic()
    ),
    "quantiles": make_pipeline(QuantileTransformer(n_quantiles=20), logistic()),
    "power": make_pipeline(PowerTransformer(), logistic()),
    "union, selection": scaled(FeatureUnion([("a", PCA(3)), ("b", SelectKBest(k=4))]), logistic()),
    "imputed": make_pipeline(SimpleImputer(), MinMaxScaler(), logistic()),
    "calibrated": CalibratedClassifierCV(GaussianNB()),
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
    "target": TransformedTargetRegressor(LinearRegression()),
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
    return Intake.model_validate_json(door.take_in(str(file), spec.model_dump_json(), str(folder / "store"), "model"))


def assert_agrees(intake):
    assert intake.model.graph is not None, intake.model.graph_refusal
    arrays = np.load(intake.dataset.artifact.path)
    x, reference = arrays["test.x.features"], arrays[f"test.reference.{intake.model.outputs[0].name}"]
    with torch.no_grad():
        graph = torch_graph.load(intake.model.graph.path)(torch.from_numpy(x)).numpy()
    session = onnxruntime.InferenceSession(intake.model.onnx.path, providers=["CPUExecutionProvider"])
    for got in (graph, session.run(None, {"features": x})[0]):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, reference, rtol=1e-4, atol=1e-4 * np.abs(reference).max())
        if "test.predicted" in arrays:
            np.testing.assert_array_equal(got.argmax(axis=1), arrays["test.predicted"])


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_classifier_of_three_classes_answers_alike(kind, data, tmp_path):
    assert_agrees(taken(CLASSIFIERS[kind], data["classes"], tmp_path))


@pytest.mark.parametrize(
    "kind",
    ["logistic", "ridge", "sgd", "linear svc", "svc", "boosting", "histogram boosting", "discriminant", "hard vote"],
)
def test_a_classifier_of_two_classes_answers_alike(kind, data, tmp_path):
    """Where one column of scores stands for two classes."""
    assert_agrees(taken(CLASSIFIERS[kind], data["two"], tmp_path))


@pytest.mark.parametrize("kind", OTHERS)
def test_a_regressor_or_clustering_answers_alike(kind, data, tmp_path):
    assert_agrees(taken(OTHERS[kind], data["numbers"], tmp_path))


def test_probabilities_of_libsvm_leave_only_the_paths_without_a_torch_graph(data, tmp_path):
    intake = taken(scaled(SVC(probability=True)), data["classes"], tmp_path)
    assert intake.model.graph is None
    assert "iteration" in intake.model.graph_refusal


def test_a_conversion_that_disagrees_is_refused_not_shipped(data, tmp_path):
    """skl2onnx 1.20 gets the weights of coinciding neighbours wrong; half of the test rows were training rows."""
    with pytest.raises(ConversionError, match="disagrees with the source model"):
        taken(scaled(KNeighborsClassifier(weights="distance")), data["classes"], tmp_path)


def test_xgboost_is_refused_by_name(tmp_path, data):
    path = tmp_path / "model.pkl"
    path.write_bytes(b"cxgboost.sklearn\nXGBClassifier\n.")
    with pytest.raises(UntrustedModelError, match=r"xgboost.*onnxmltools"):
        door.check(str(path), DataSpec(path=data["two"][2]).model_dump_json())
