"""What `edgewright inspect` says of a model file: the dtypes that are stored, counted in the file itself."""

import pickle
import shutil

import numpy as np
import onnx
import pytest

from edgewright.artifact import Format, Precision
from edgewright.errors import InputError, UnsupportedError, UntrustedModelError
from edgewright.export.stored import describe
from edgewright.profile import Platform

PARAMETERS = 8 * 9 + 8 + 1280 + 10  # after the batch normalization was folded into the convolution
DENSE = 1280


def by_dtype(path):
    return {w.dtype: w for w in describe(path).weights}


@pytest.mark.parametrize(
    ("platform", "form"),
    [(Platform.ANDROID, Format.TFLITE), (Platform.IOS, Format.MLPACKAGE), (Platform.EDGE_DEVICE, Format.ONNX)],
)
def test_float32_files_store_float32(digits, platform, form):
    path = digits.exported(platform, Precision.FLOAT32).artifact.path
    found = describe(path)
    assert found.format is form
    assert found.parameters == PARAMETERS
    assert by_dtype(path)["float32"].bytes == 4 * PARAMETERS
    assert [t.name for t in (*found.inputs, *found.outputs)] == ["image", "probabilities"]
    assert found.sparsity == 0


@pytest.mark.parametrize(
    ("platform", "dtype"),
    [(Platform.ANDROID, "int8"), (Platform.IOS, "linear (float32, int8)"), (Platform.EDGE_DEVICE, "int8")],
)
def test_int8_files_store_int8(digits, platform, dtype):
    found = by_dtype(digits.exported(platform, Precision.INT8).artifact.path)
    key = dtype if dtype in found else dtype.replace("float32", "float16")
    assert found[key].elements >= DENSE
    assert found[key].bytes < 2 * found[key].elements


def test_operators_are_counted(digits):
    operators = describe(digits.exported(Platform.ANDROID, Precision.FLOAT32).artifact.path).operators
    assert operators["RESHAPE"] == 2
    assert operators["FULLY_CONNECTED"] == 1
    assert list(operators.values()) == sorted(operators.values(), reverse=True)


def test_a_torch_graph_tells_its_layers(digits):
    found = describe(digits.model.graph.path)
    assert found.format is Format.TORCH_GRAPH
    assert found.operators["BatchNorm2d"] == 1
    assert found.parameters == PARAMETERS + 4 * 8


def test_zeros_are_counted(digits, tmp_path):
    model = onnx.load(digits.exported(Platform.EDGE_DEVICE, Precision.FLOAT32).artifact.path)
    weight = next(t for t in model.graph.initializer if len(t.dims) == 2)
    values = onnx.numpy_helper.to_array(weight).copy()
    values[:, ::2] = 0
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, tmp_path / "sparse.onnx")
    assert describe(tmp_path / "sparse.onnx").sparsity == pytest.approx(DENSE / 2 / PARAMETERS)


def test_a_scikit_learn_model_tells_its_estimators(tmp_path):
    from sklearn.linear_model import LogisticRegression

    rows = np.random.default_rng(0).normal(size=(40, 3))
    model = LogisticRegression().fit(rows, rows[:, 0] > 0)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    found = describe(tmp_path / "model.pkl")
    assert found.operators["LogisticRegression"] == 1
    assert found.parameters == 3 + 1
    assert found.notes == ("LogisticRegression()",)


def test_every_tree_of_a_forest_is_counted(tmp_path):
    from sklearn.ensemble import RandomForestClassifier

    rows = np.random.default_rng(0).normal(size=(200, 3))
    model = RandomForestClassifier(n_estimators=30, random_state=0).fit(rows, rows[:, 0] + rows[:, 1] > 0)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    found = describe(tmp_path / "model.pkl")
    assert found.operators["Tree"] == 30
    nodes = sum(tree.tree_.node_count for tree in model.estimators_)
    assert found.parameters >= nodes * 3  # threshold, impurity and the value of a leaf, for each node


def test_a_hostile_pickle_is_refused(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    (tmp_path / "model.pkl").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(UntrustedModelError):
        describe(tmp_path / "model.pkl")
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("platform", Platform)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_refused_in_one_line(digits, tmp_path, platform, share):
    source = digits.exported(platform, Precision.FLOAT32).artifact.path
    path = tmp_path / source.name
    if source.is_dir():
        shutil.copytree(source, path)
        cut = path / "Data/com.apple.CoreML/weights/weight.bin"
    else:
        shutil.copyfile(source, path)
        cut = path
    cut.write_bytes(cut.read_bytes()[: int(share * cut.stat().st_size)])
    with pytest.raises((InputError, UnsupportedError)) as caught:
        describe(path)
    assert "\n" not in str(caught.value)
