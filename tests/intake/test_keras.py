"""Keras files and SavedModels, old and new; TensorFlow runs in children only, never in this process."""

import json
import re
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import torch

from edgewright.artifact import Format, ModelTask, Precision
from edgewright.data import DataSpec
from edgewright.errors import InputError, UntrustedModelError
from edgewright.export import export
from edgewright.export.runs import outputs_of
from edgewright.intake import child, detect_format, torch_graph
from edgewright.intake.keras_guard import _reaching_files, inspect_keras_file
from edgewright.profile import Platform
from edgewright.store import Store

pytestmark = pytest.mark.filterwarnings("ignore")

NETWORK = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
legacy = sys.argv[1] == "legacy"
if legacy:
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tf_keras as keras
else:
    import keras
import numpy as np
L = keras.layers
keras.utils.set_random_seed(0)
model = keras.Sequential([
    keras.Input((8, 8, 1)), L.Conv2D(6, 3, padding="same", use_bias=False), L.BatchNormalization(), L.ReLU(),
    L.DepthwiseConv2D(3, strides=2, padding="same"), L.BatchNormalization(), L.ReLU(6.0),
    L.GlobalAveragePooling2D(), L.Dropout(0.2), L.Dense(10, activation="softmax"),
])
model.compile("adam", "sparse_categorical_crossentropy")
model.fit(np.random.rand(64, 8, 8, 1), np.random.randint(0, 10, 64), verbose=0)
for path in sys.argv[2:]:
    model.export(path) if path.endswith("exported") else model.save(path)
"""


def saved(kind, *paths):
    command = [sys.executable, "-c", NETWORK, kind, *map(str, paths)]
    subprocess.run(command, check=True, capture_output=True, timeout=240)


@pytest.fixture(scope="session")
def keras_3(folder):
    saved("modern", folder / "m3.keras", folder / "m3.h5")
    return folder / "m3.keras"


@pytest.fixture(scope="session")
def keras_2(folder):
    saved("legacy", folder / "m2.h5", folder / "m2_saved_model")
    return folder / "m2.h5"


def taken(path, data, folder):
    spec = DataSpec(path=data, scale=1 / 16)
    return child.take_in(path, spec, folder / "store", "model")


def assert_agrees(intake, normalizations):
    assert intake.model.graph is not None, intake.model.graph_refusal
    arrays = np.load(intake.dataset.artifact.path)
    graph = torch_graph.load(intake.model.graph.path)
    with torch.no_grad():
        got = graph(torch.from_numpy(arrays[f"test.x.{intake.model.inputs[0].name}"])).numpy()
    np.testing.assert_allclose(got, arrays["test.reference.output"], atol=1e-5)
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in graph.modules()) == normalizations


def test_a_keras_3_file_keeps_its_batch_normalization(keras_3, digits_npz, tmp_path):
    assert detect_format(keras_3) is Format.KERAS
    intake = taken(keras_3, digits_npz, tmp_path)
    assert_agrees(intake, 2)
    assert intake.model.inputs[0].shape == (-1, 8, 8, 1)
    assert any("keras 3" in note for note in intake.model.notes)


@pytest.mark.slow
def test_a_keras_2_file_falls_back_on_its_own_loader_and_says_so(keras_2, digits_npz, tmp_path):
    """DepthwiseConv2D(groups=1) of 2020-2023 is what today's loader refuses."""
    intake = taken(keras_2, digits_npz, tmp_path)
    assert_agrees(intake, 2)
    assert any("the loader of Keras 2, since today's failed" in note for note in intake.model.notes)


@pytest.mark.slow
def test_a_keras_2_saved_model_with_optimizer_slots(keras_2, digits_npz, tmp_path):
    folder = keras_2.parent / "m2_saved_model"
    assert detect_format(folder) is Format.SAVED_MODEL
    assert_agrees(taken(folder, digits_npz, tmp_path), 2)


@pytest.mark.slow
def test_a_keras_3_file_in_hdf5(keras_3, digits_npz, tmp_path):
    assert_agrees(taken(keras_3.parent / "m3.h5", digits_npz, tmp_path), 2)


def archive(path, config):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("metadata.json", "{}")
        file.writestr("config.json", json.dumps(config))
    return path


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({"module": "keras.layers", "class_name": "Lambda", "config": {}}, "Lambda"),
        ({"module": "os", "class_name": "system", "config": "true"}, r"os\.system"),
        ({"module": "builtins", "class_name": "function", "config": "eval"}, "function"),
        ({"module": "keras.utils", "class_name": "get_file", "config": {}}, r"keras\.utils"),
        ({"module": "keras.src.utils.file_utils", "class_name": "get_file", "config": {}}, "file_utils"),
        (
            {"module": "keras.layers", "class_name": "StringLookup", "config": {"vocabulary": "/etc/passwd"}},
            "a StringLookup, which looks its input up in a vocabulary, which may be a file, and no platform has",
        ),
        ({"class_name": "IntegerLookup", "config": {"vocabulary": [3]}}, "an IntegerLookup, which looks its input up"),
        (
            {"class_name": "Hashing", "config": {"num_bins": 5}},
            "a Hashing, which hashes its input, and no platform has an operator for it; apply it to the data",
        ),
        ({"module": "kerasevil", "class_name": "Dense", "config": {}}, "kerasevil"),
        ({"module": "keras.layers", "class_name": "Evil", "config": {}}, r"keras\.layers\.Evil"),
        ({"module": "keras.src.ops.numpy", "class_name": "Map", "config": {}}, "Map"),
        ({"class_name": "RNNCellResidualWrapper", "config": {}}, "RNNCellResidualWrapper"),
        ({"class_name": "TFOpLambda", "config": {"name": "w", "function": "io.write_file"}}, r"io\.write_file"),
        ({"class_name": "TFOpLambda", "config": {"name": "w", "function": "compat.v1.py_func"}}, "py_func"),
        ({"class_name": "TFOpLambda", "config": {"name": "w", "function": "math.reduce_sum.x"}}, r"reduce_sum\.x"),
        ({"class_name": "GRUCell", "config": {"residual_fn": ["4wEAAA==", None, None]}}, "residual_fn"),
        ({"class_name": "Dense", "config": {"function_type": "lambda"}}, "function_type"),
        ({"class_name": "Dense", "config": {"activation": "deserialize_keras_object"}}, "activation"),
        ({"class_name": "TimeDistributed", "config": {"layer": {"class_name": "Lambda", "config": {}}}}, "Lambda"),
    ],
)
def test_a_layer_that_carries_code_is_refused(tmp_path, layer, words):
    config = {"module": "keras", "class_name": "Sequential", "config": {"layers": [layer]}}
    with pytest.raises(UntrustedModelError, match=words):
        inspect_keras_file(archive(tmp_path / "m.keras", config))


def test_functions_that_compute_are_taken(tmp_path):
    layers = [
        {"class_name": "TFOpLambda", "config": {"name": name, "function": name}}
        for name in (
            "math.reduce_mean",
            "nn.relu6",
            "concat",
            "__operators__.add",
            "compat.v1.nn.softmax",
            "image.resize",
        )
    ]
    layers += [
        {"module": "keras.layers", "class_name": "Dense", "config": {"activation": "gelu"}},
        {"module": "keras.src.ops.numpy", "class_name": "Add", "config": {}},
        {"module": "keras.src.applications.convnext", "class_name": "LayerScale", "config": {}},
    ]
    config = {"module": "keras", "class_name": "Functional", "config": {"layers": layers}}
    trained = {"loss": {"module": "mine", "class_name": "MyLoss", "config": {}}}
    inspect_keras_file(archive(tmp_path / "m.keras", {**config, "compile_config": trained}))


def test_groups_of_several_names_are_looked_at_once(tmp_path):
    """Each holds the next one twice: 2^40 paths, of which the last leads out of the file."""
    import h5py

    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["model_config"] = "{}"
        group = file
        for _ in range(40):
            group["one"] = inner = group.create_group("other")
            group = inner
        group["back"] = file
    inspect_keras_file(tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "a") as file:
        file["/".join(["other"] * 40) + "/kernel"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(UntrustedModelError, match="'kernel' is a link out of the file"):
        inspect_keras_file(tmp_path / "m.h5")


class Node:
    """A node of TensorFlow's graph that calls what it is named after."""

    def __init__(self, op):
        self.op, self.attr = op, {}


def test_functions_that_reach_files_are_found_through_their_callers():
    """In an order in which each is declared before what it calls: again for each of them, it would take hours."""
    count = 4000
    chain = {f"f{i}": [Node(f"f{i + 1}")] for i in range(count)}
    functions = {**chain, f"f{count}": [Node("Relu"), Node("SaveV2")], "apart": [Node("Relu")], "loop": [Node("loop")]}
    started = time.process_time()
    assert _reaching_files(functions) == {f"f{i}" for i in range(count + 1)}
    assert time.process_time() - started < 2


def test_an_hdf5_file_with_a_lambda_or_a_link_is_refused(tmp_path):
    import h5py

    config = {"class_name": "Sequential", "config": {"layers": [{"class_name": "Lambda", "config": {}}]}}
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(UntrustedModelError, match="Lambda"):
        inspect_keras_file(tmp_path / "m.h5")
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file.attrs["model_config"] = "{}"
        file["weights"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(UntrustedModelError, match="link"):
        inspect_keras_file(tmp_path / "link.h5")


@pytest.mark.parametrize("way", ["link", "storage", "virtual"])
@pytest.mark.parametrize("form", ["h5", "keras"])
def test_weights_that_lie_in_another_file_are_refused(tmp_path, way, form):
    import h5py

    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.attrs["model_config"] = "{}"
        if way == "link":
            file["layers/kernel"] = h5py.ExternalLink("/etc/passwd", "/")
        elif way == "storage":
            file.create_dataset("layers/kernel", (2, 3), "f4", external=[("/etc/passwd", 0, 24)])
        else:
            layout = h5py.VirtualLayout((2, 3), "f4")
            layout[:] = h5py.VirtualSource("/etc/passwd", "k", (2, 3))
            file.create_virtual_dataset("layers/kernel", layout)
    path = tmp_path / f"m.{form}"
    if form == "h5":
        (tmp_path / "w.h5").rename(path)
    else:
        with zipfile.ZipFile(path, "w") as made:
            for name, content in (("config.json", b"{}"), ("metadata.json", b"{}")):
                made.writestr(name, content)
            made.write(tmp_path / "w.h5", "model.weights.h5")
    with pytest.raises(UntrustedModelError, match=r"'kernel' .*; refused"):
        inspect_keras_file(path)


def test_weights_without_a_model_are_refused(tmp_path):
    import h5py

    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["weights"] = np.zeros(3)
    with pytest.raises(InputError, match="no model"):
        inspect_keras_file(tmp_path / "w.h5")


def test_truncated_files_are_refused(tmp_path, keras_3):
    for source in (keras_3, keras_3.parent / "m3.h5"):
        content = source.read_bytes()
        for part in (0.3, 0.7, 0.99):
            path = tmp_path / source.name
            path.write_bytes(content[: int(len(content) * part)])
            with pytest.raises(InputError):
                _ = detect_format(path), inspect_keras_file(path)


HOSTILE = """
import sys
import tensorflow as tf
class Model(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 1), tf.float32)])
    def call(self, x):
        y = tf.py_function(lambda v: v, [x], tf.float32)
        return tf.reduce_sum(tf.ensure_shape(y, (None, 8, 8, 1)), [1, 2])
class Reader(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 1), tf.float32)])
    def call(self, x):
        content = tf.strings.length(tf.io.read_file("/etc/passwd"))
        return tf.reduce_sum(x, [1, 2]) + tf.cast(content, tf.float32)
model = Model() if sys.argv[1] == "python" else Reader()
tf.saved_model.save(model, sys.argv[2], signatures=model.call)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "words"), [("python", "EagerPyFunc"), ("file", "ReadFile")])
def test_a_saved_model_that_reaches_outside_is_refused(tmp_path, digits_npz, kind, words):
    command = [sys.executable, "-c", HOSTILE, kind, str(tmp_path / "m")]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    with pytest.raises(UntrustedModelError, match=words):
        child.check(tmp_path / "m", DataSpec(path=digits_npz))


AT_A_RATE = """
import sys
import tensorflow as tf
class Model(tf.Module):
    @tf.function(input_signature=[
        tf.TensorSpec((None, 4), tf.float32, "x"),
        tf.TensorSpec((), tf.int64, "rate"),
        tf.TensorSpec((), tf.bool, "up"),
    ])
    def call(self, x, rate, up):
        y = tf.where(rate == 8000, x * 0.5, tf.sin(x))
        return {"y": tf.where(up, y + 1.0, y)}
model = Model()
tf.saved_model.save(model, sys.argv[1], signatures=model.call)
"""


@pytest.mark.slow
def test_a_single_number_of_a_saved_model_is_fixed_at_the_value_of_the_data(tmp_path):
    subprocess.run([sys.executable, "-c", AT_A_RATE, str(tmp_path / "m")], check=True, capture_output=True, timeout=240)
    rows = np.random.default_rng(0).random((40, 4), np.float32)
    given = {"x.x": rows, "x.rate": np.full(40, 16_000), "x.up": np.array(True)}
    np.savez(tmp_path / "d.npz", **given)
    spec = DataSpec(path=tmp_path / "d.npz", task=ModelTask.NONE)
    store = Store(tmp_path / "s")
    intake = child.take_in(tmp_path / "m", spec, store.root, "m")
    assert [t.name for t in intake.model.inputs] == ["x"]
    assert "input 'rate' is a single number and was fixed at 16000, its value in all of the data" in intake.model.notes
    found = torch_graph.load(intake.model.graph.path)(torch.from_numpy(rows))
    np.testing.assert_allclose(found.numpy(), np.sin(rows) + 1, rtol=1e-5)
    without_graph = intake.model.model_copy(update={"graph": None, "onnx": None, "graph_refusal": "none"})
    exported = export(without_graph, intake.dataset, Platform.ANDROID, Precision.FLOAT32, store)
    answered = outputs_of(exported.artifact.path, exported.artifact.format, {"x": rows}, [exported.outputs[0].name])
    np.testing.assert_allclose(answered[exported.outputs[0].name], np.sin(rows) + 1, rtol=1e-5)
    np.savez(tmp_path / "d.npz", **{"x.x": rows, "x.rate": np.array(8000)})
    with pytest.raises(InputError, match=re.escape("add an array 'x.up'")):
        child.take_in(tmp_path / "m", spec, store.root, "m")


CALLING = """
import sys
from pathlib import Path
from tensorflow.core.protobuf import saved_model_pb2
from edgewright.errors import UntrustedModelError
from edgewright.intake.keras_guard import inspect_saved_model
document = saved_model_pb2.SavedModel()
library = document.meta_graphs.add().graph_def.library
caller = library.function.add()
caller.signature.name = "__inference_call_1"
node = caller.node_def.add()
node.name = "w"
if sys.argv[1] == "attribute":
    node.op = "StatefulPartitionedCall"
    node.attr["f"].func.name = "WriteFile"
else:
    node.op = library.function.add().signature.name = "WriteFile"
Path(sys.argv[2], "saved_model.pb").write_bytes(document.SerializeToString())
try:
    inspect_saved_model(Path(sys.argv[2]))
except UntrustedModelError as e:
    print(e)
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["attribute", "name"])
def test_an_operator_is_not_reached_as_a_function(tmp_path, way):
    done = subprocess.run(
        [sys.executable, "-c", CALLING, way, str(tmp_path)], capture_output=True, text=True, timeout=240, check=True
    )
    words = {"attribute": "calls WriteFile, which is not a function of the graph", "name": "is called WriteFile, as an"}
    assert words[way] in done.stdout


LOOKED_UP = """
import sys
from pathlib import Path
from tensorflow.core.protobuf import saved_model_pb2
from edgewright.errors import UntrustedModelError
from edgewright.intake.keras_guard import inspect_saved_model
for operator in sys.argv[2:]:
    document = saved_model_pb2.SavedModel()
    node = document.meta_graphs.add().graph_def.node.add()
    node.name, node.op = "looked_up", operator
    Path(sys.argv[1], "saved_model.pb").write_bytes(document.SerializeToString())
    try:
        inspect_saved_model(Path(sys.argv[1]))
    except UntrustedModelError as e:
        print(e)
"""


@pytest.mark.slow
def test_a_saved_model_that_looks_up_or_hashes_names_the_layer_and_what_to_do(tmp_path):
    operators = ["HashTableV2", "LookupTableFindV2", "StringToHashBucketFast", "SparseCross", "WriteFile"]
    done = subprocess.run(
        [sys.executable, "-c", LOOKED_UP, str(tmp_path), *operators],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    lines = done.stdout.splitlines()
    vocabulary = "as IntegerLookup or StringLookup or TextVectorization leaves it, which looks its input up in a voc"
    hashed = "as HashedCrossing or Hashing leaves it, which hashes its input"
    for line, operator, layers in zip(lines, operators, (vocabulary, vocabulary, hashed, hashed), strict=False):
        assert f"the graph holds {operator} (node 'looked_up'), {layers}" in line
        assert line.endswith("; apply it to the data, and save the model from its output on")
    assert "the graph holds WriteFile (node 'looked_up'), which is not known to compute alone" in lines[4]
