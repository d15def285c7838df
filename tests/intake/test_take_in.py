"""From a model file and data to the store; most of it in this process, since starting a child takes seconds."""

import json
import pickle
import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from edgewright.artifact import Format, Intake, ModelTask
from edgewright.data import DataSpec
from edgewright.errors import InputError, UntrustedModelError
from edgewright.intake import child, preflight, take_in, torch_graph
from edgewright.intake.answers import Answers
from edgewright.intake.arrays import read_arrays
from edgewright.store import Store
from edgewright_runtime.bundle.manifest import TensorSpec

# torch and skl2onnx warn about their own insides
pytestmark = pytest.mark.filterwarnings("ignore")


def taken(path, spec, folder, name="model") -> Intake:
    return child.take_in(path, spec, folder, name)


def as_they_are(y):
    return Answers(y, None)


def graph_answers(intake, inputs):
    assert intake.model.graph is not None, intake.model.graph_refusal
    graph = torch_graph.load(intake.model.graph.path)
    with torch.no_grad():
        return graph(torch.from_numpy(inputs)).numpy()


def onnx_answers(intake, inputs):
    session = onnxruntime.InferenceSession(intake.model.onnx.path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]


def assert_what_is_inside_agrees_with_source(intake, tolerance=1e-5):
    arrays = np.load(intake.dataset.artifact.path)
    x = arrays[f"test.x.{intake.model.inputs[0].name}"]
    reference = arrays[f"test.reference.{intake.model.outputs[0].name}"]
    # A PyTorch program is the graph itself; every other source passes through ONNX.
    ways = (graph_answers, onnx_answers) if intake.model.onnx else (graph_answers,)
    for got in (answer(intake, x) for answer in ways):
        np.testing.assert_allclose(got, reference, rtol=0, atol=tolerance)
        if intake.model.task is ModelTask.CLASSIFICATION:
            np.testing.assert_array_equal(got.argmax(axis=1), arrays["test.predicted"])
    return arrays


def test_a_torch_cnn_keeps_its_batch_normalization_and_its_answers(digits_pt2, digits_npz, tmp_path):
    intake = taken(digits_pt2, DataSpec(path=digits_npz, scale=1 / 16), tmp_path)
    arrays = assert_what_is_inside_agrees_with_source(intake)
    graph = torch_graph.load(intake.model.graph.path)
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in graph.modules()) == 2
    assert intake.model.inputs[0].shape == (-1, 1, 8, 8)
    assert intake.model.labels == tuple("0123456789")
    assert intake.model.preprocessing.scale == 1 / 16
    assert arrays["test.x.input"].max() == 1.0
    assert any("reshaped" in note for note in intake.dataset.notes)


@pytest.mark.parametrize(
    "model",
    [
        LogisticRegression(max_iter=5000),
        make_pipeline(StandardScaler(), MLPClassifier((16,), max_iter=60, random_state=0)),
        RandomForestClassifier(20, random_state=0),
        RandomForestClassifier(5, max_depth=4, random_state=0),
        make_pipeline(StandardScaler(), GradientBoostingClassifier(n_estimators=20, random_state=0)),
    ],
    ids=["logistic", "mlp", "forest", "shallow forest", "boosting"],
)
def test_a_scikit_learn_model_over_arrays_agrees_on_every_row(model, cancer_npz, tmp_path, pickled):
    data = load_breast_cancer()
    model.fit(data.data[::2], data.target[::2])
    intake = taken(pickled(model), DataSpec(path=cancer_npz), tmp_path)
    assert_what_is_inside_agrees_with_source(intake)
    assert intake.model.float32_only == (
        (intake.model.graph is not None and "orest" in str(model)) or "Boost" in str(model)
    )


def test_splits_are_disjoint_stratified_and_depend_on_the_seed_alone(digits_pt2, digits_npz, tmp_path):
    first = taken(digits_pt2, DataSpec(path=digits_npz), tmp_path / "a")
    again = taken(digits_pt2, DataSpec(path=digits_npz), tmp_path / "b")
    assert first.dataset.artifact.digest == again.dataset.artifact.digest
    assert first.model.graph.digest == again.model.graph.digest
    arrays = np.load(first.dataset.artifact.path)
    splits = ("train", "calibration", "validation", "test")
    rows = {s: {x.tobytes() for x in arrays[f"{s}.x.input"]} for s in splits}
    assert rows["calibration"] <= rows["train"]
    assert not rows["train"] & rows["test"]
    assert not rows["train"] & rows["validation"]
    assert not rows["validation"] & rows["test"]
    assert sum(len(arrays[f"{s}.y"]) for s in splits if s != "calibration") == 1797
    shares = np.bincount(arrays["test.y"]) / len(arrays["test.y"])
    assert shares.min() > 0.08
    other = read_arrays(DataSpec(path=digits_npz, seed=1), first.model.inputs, as_they_are)
    assert (other.y[other.rows.test] != arrays["test.y"]).any()


def test_explicit_test_arrays_stay_the_test_split(digits_npz, tmp_path):
    whole = np.load(digits_npz)
    path = tmp_path / "split.npz"
    np.savez(
        path, x_train=whole["x"][:1500], y_train=whole["y"][:1500], x_test=whole["x"][1500:], y_test=whole["y"][1500:]
    )
    samples = read_arrays(DataSpec(path=path), (TensorSpec("input", (-1, 1, 8, 8), "float32"),), as_they_are)
    np.testing.assert_array_equal(samples.y[samples.rows.test], whole["y"][1500:])
    assert max(samples.rows.train.max(), samples.rows.validation.max()) < 1500


TABLE = """id,colour,size,price,label
1,red,1.5,10,yes
2,blue,,20,no
3,green,2.5,30,yes
"""


def churn_like(tmp_path, rows=300):
    """A table with text, numbers, blanks and an id, and a pipeline fitted on it."""
    import pandas as pd

    random = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "id": [f"c{i}" for i in range(rows)],
            "colour": random.choice(["red", "blue", "green"], rows),
            "size": random.choice([0.1, 0.2, 0.3, 1.7, np.nan], rows),
            "price": random.normal(10, 3, rows).round(2),
        }
    )
    wanted = (table["colour"] == "red") ^ (table["price"] > 10)
    table["label"] = np.where(wanted, "yes", "no")
    path = tmp_path / "table.csv"
    table.to_csv(path, index=False)
    from sklearn.compose import make_column_transformer

    model = make_pipeline(
        make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), ["colour"]),
            (make_pipeline(SimpleImputer(), StandardScaler()), ["price", "size"]),
        ),
        GradientBoostingClassifier(n_estimators=10, random_state=0),
    )
    model.fit(table[["colour", "size", "price"]], wanted.astype(int))
    return model, path


def test_a_table_with_text_blanks_and_an_id_column(tmp_path, pickled):
    model, path = churn_like(tmp_path)
    intake = taken(pickled(model), DataSpec(path=path, target="label"), tmp_path / "s")
    arrays = assert_what_is_inside_agrees_with_source(intake)
    colour, size, price = intake.model.preprocessing.columns
    assert [v for v, _ in colour.vocabulary] == ["blue", "green", "red"]
    assert size.optional
    assert price.kind == "number"
    assert any("id" in note for note in intake.dataset.notes)
    assert any("no = 0, yes = 1" in note for note in intake.dataset.notes)
    row = json.loads(arrays["test.raw"][0])
    codes = dict(colour.vocabulary)
    encoded = [codes[row["colour"]], np.nan if row["size"] is None else row["size"], row["price"]]
    np.testing.assert_array_equal(arrays["test.x.features"][0], np.array(encoded, dtype=np.float32))


def test_an_unknown_category_is_answered_as_scikit_learn_does(tmp_path, pickled):
    import pandas as pd

    model, path = churn_like(tmp_path)
    intake = taken(pickled(model), DataSpec(path=path, target="label"), tmp_path / "s")
    row = pd.DataFrame({"colour": ["violet"], "size": [0.2], "price": [10.0]})
    got = graph_answers(intake, np.array([[-1, 0.2, 10.0]], dtype=np.float32))
    np.testing.assert_allclose(got, model.predict_proba(row), atol=1e-6)


def test_a_regressor_over_a_table(tmp_path, pickled):
    import pandas as pd

    random = np.random.default_rng(0)
    table = pd.DataFrame({"a": random.normal(size=80), "b": random.normal(size=80)})
    table["y"] = 3 * table["a"] - table["b"]
    path = tmp_path / "t.csv"
    table.to_csv(path, index=False)
    model = LinearRegression().fit(table[["a", "b"]], table["y"])
    intake = taken(pickled(model), DataSpec(path=path, target="y"), tmp_path / "s")
    assert_what_is_inside_agrees_with_source(intake)
    assert intake.model.task is ModelTask.REGRESSION
    assert intake.model.outputs[0].shape == (-1, 1)


def test_through_the_child_and_back(tmp_path, digits_pt2, digits_npz):
    store = Store(tmp_path / "store")
    spec = DataSpec(path=digits_npz, scale=1 / 16)
    preflight(digits_pt2, spec)
    assert not store.root.exists()
    intake = take_in(digits_pt2, spec, store, name="digits")
    assert intake.model.name == "digits"
    assert store.holds(intake.model.graph)
    assert intake.model.graph.format is Format.TORCH_GRAPH
    assert intake.model.onnx is None
    assert intake.model.source.digest == intake.model.graph.parent
    assert intake.model.is_untouched


def test_a_hostile_pickle_is_refused_through_the_child(tmp_path, digits_npz):
    class Hostile:
        def __reduce__(self):
            import os

            return os.system, (f"touch {tmp_path / 'proof'}",)

    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(UntrustedModelError, match=r"posix\.system"):
        take_in(path, DataSpec(path=digits_npz), Store(tmp_path / "store"))
    assert not (tmp_path / "proof").exists()
    assert not (tmp_path / "store").exists()


def refused(path, spec, words):
    with pytest.raises(InputError, match=words) as error:
        child.check(path, spec)
    assert "\n" not in str(error.value)


def test_bad_tables_are_refused_in_one_line(tmp_path, pickled):
    model, path = churn_like(tmp_path)
    saved = pickled(model)
    refused(saved, DataSpec(path=path, target="Churn"), "no column 'Churn'")
    refused(saved, DataSpec(path=path), "--target")
    refused(saved, DataSpec(path=tmp_path / "nothing.csv", target="label"), "no such file")
    content = path.read_text()
    bad = tmp_path / "bad.csv"

    bad.write_text(content.replace("colour", "color", 1))
    refused(saved, DataSpec(path=bad, target="label"), "no column 'colour'")
    lines = content.splitlines()
    cells = lines[3].split(",")
    bad.write_text("\n".join([*lines[:3], ",".join([*cells[:3], "cheap", cells[4]]), *lines[4:]]))
    refused(saved, DataSpec(path=bad, target="label"), "column 'price', row 2: 'cheap' is not a number")
    bad.write_text("\n".join([*lines[:3], ",".join([*cells[:4], ""]), *lines[4:]]))
    refused(saved, DataSpec(path=bad, target="label"), "blank in row 2")
    bad.write_text("\n".join([*lines[:3], ",".join([*cells[:4], "perhaps"]), *lines[4:]]))
    refused(saved, DataSpec(path=bad, target="label"), "holds 'no'|holds 'perhaps'")


def test_a_blank_where_the_model_takes_none_is_refused(tmp_path, pickled):
    import pandas as pd

    table = pd.DataFrame({"a": np.arange(40.0), "b": np.arange(40.0)[::-1], "y": np.arange(40) % 2})
    model = LogisticRegression().fit(table[["a", "b"]], table["y"])
    table.loc[7, "b"] = np.nan
    table.to_csv(tmp_path / "t.csv", index=False)
    refused(pickled(model), DataSpec(path=tmp_path / "t.csv", target="y"), "column 'b' is blank in row 7")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y: {"x": x, "y": y[:-1]}, "1797 rows of 'x'.*1796"),
        (lambda x, y: {"x": x[:, :, :4], "y": y}, "do not fit the model's input"),
        (lambda x, y: {"x": x.astype(np.float32) * np.nan, "y": y}, "NaN in row 0"),
        (lambda x, y: {"x": x, "y": np.where(y == 3, np.nan, y)}, "NaN in row 3"),
        (lambda x, y: {"x": x, "y": y + 1}, "classes 1-10"),
        (lambda x, y: {"z": x, "y": y}, "no array 'x'"),
        (lambda x, y: {"x": x[:1], "y": y[:1]}, "rows leave nothing"),
    ],
)
def test_bad_arrays_are_refused_in_one_line(tmp_path, digits_pt2, digits_npz, change, words):
    whole = np.load(digits_npz)
    np.savez(tmp_path / "bad.npz", **change(whole["x"], whole["y"]))
    refused(digits_pt2, DataSpec(path=tmp_path / "bad.npz"), words)


def test_damaged_arrays_are_refused(tmp_path, digits_pt2, digits_npz):
    (tmp_path / "half.npz").write_bytes(digits_npz.read_bytes()[:5000])
    refused(digits_pt2, DataSpec(path=tmp_path / "half.npz"), "cannot be read as arrays")


@pytest.mark.shared
def test_the_churn_model_agrees_with_scikit_learn_on_every_row_of_the_table(shared, tmp_path):
    """All 7,043 rows: every decision of every tree alike, so the probabilities differ by float32 rounding only."""
    path, table = shared / "models/customer_churn.pkl", shared / "data/telco_customer_churn.csv"
    intake = taken(path, DataSpec(path=table, target="Churn"), tmp_path)
    import pandas as pd

    from edgewright.intake.tables import encode, read_table

    frame = read_table(DataSpec(path=table, target="Churn")).frame
    frame["TotalCharges"] = pd.to_numeric(frame["TotalCharges"], errors="coerce")
    assert any("'TotalCharges' holds text and was read as numbers, 11 blank" in note for note in intake.dataset.notes)
    encoded = encode(frame, intake.model.preprocessing)
    model = pickle.loads(path.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = model.predict_proba(frame)
    for got in (graph_answers(intake, encoded), onnx_answers(intake, encoded)):
        assert got.shape == (7043, 2)
        np.testing.assert_array_equal(got.argmax(axis=1), expected.argmax(axis=1))
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


@pytest.mark.shared
def test_the_reference_network(shared, tmp_path):
    """The first 1,000 of MNIST's test rows: 99.20% on all of them."""
    whole = np.load(shared / "data/mnist.npz")
    np.savez(tmp_path / "part.npz", **{k: whole[k][: 3000 if "train" in k else 1000] for k in whole.files})
    intake = taken(shared / "models/lenet_5_caffe.pt2", DataSpec(path=tmp_path / "part.npz", scale=1 / 255), tmp_path)
    arrays = assert_what_is_inside_agrees_with_source(intake, tolerance=1e-4)
    assert (arrays["test.predicted"] == arrays["test.y"]).mean() > 0.985
    assert intake.model.inputs[0].shape == (-1, 1, 28, 28)


def test_what_of_the_sandbox_is_missing_is_said_in_the_result_and_the_log(tmp_path, monkeypatch):
    import dataclasses

    from edgewright import intake
    from edgewright.progress import progress

    x, y = load_breast_cancer(return_X_y=True)
    np.savez(tmp_path / "d.npz", x=x, y=y)
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)))
    real, told = intake.run_in_child, []

    def less(*given, **how):
        return dataclasses.replace(real(*given, **how), unconfined="no Landlock here")

    monkeypatch.setattr(intake, "run_in_child", less)
    with progress.listening(lambda event: told.append(event.title)):
        found = take_in(tmp_path / "m.pkl", DataSpec(path=tmp_path / "d.npz"), Store(tmp_path / "store"))
    said = "the source was opened without all of the sandbox: no Landlock here"
    assert said in found.model.notes
    assert said in told
    monkeypatch.undo()
    whole = take_in(tmp_path / "m.pkl", DataSpec(path=tmp_path / "d.npz"), Store(tmp_path / "store"))
    assert not any("sandbox" in note for note in whole.model.notes)
