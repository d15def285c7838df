"""``--shape`` gives sizes to free axes of inputs; whatever else it names is refused in one line, for every source."""

import os
import pickle
import re
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression
from torch import nn

from edgewright.data import DataSpec
from edgewright.errors import InputError
from edgewright.intake import child
from edgewright.intake.given_shapes import input_sizes

pytestmark = pytest.mark.filterwarnings("ignore")

KERAS = """
import sys
import keras
model = keras.Sequential([keras.Input((6,), name="x"), keras.layers.Dense(3)])
model.save(sys.argv[1] + "/m.keras")
model.export(sys.argv[1] + "/saved", verbose=False)
"""
WRONG = {
    "a fixed axis": ((1, 4), r"--shape {0}=1,4: input '{0}' is \(\w+, 6\): axis 1 is fixed in the model, none of its"),
    "another rank": ((1, 6, 1), r"--shape {0}=1,6,1: input '{0}' is \(\w+, 6\) and has 2 axes; --shape gives 3"),
    "the rows": ((8, 6), r"--shape {0}=8,6: .*its first axis holds the rows and stays free: give 1"),
}


def test_free_axes_take_what_is_given(tmp_path):
    declared = {"ids": ["n", "length"], "image": [4, 3, "", 8]}
    given = {"ids": (1, 12), "image": (1, 3, 5, 8)}
    assert input_sizes(declared, given, tmp_path) == {"ids": (-1, 12), "image": (4, 3, 5, 8)}
    with pytest.raises(InputError, match=r"input 'ids', axis 1 has a free size \(length\); give it: --shape ids=1"):
        input_sizes(declared, {"image": (1, 3, 5, 8)}, tmp_path)
    with pytest.raises(InputError, match=r"axis 3 is fixed in the model, only axis 2 can be given a size; export it"):
        input_sizes(declared, {**given, "image": (1, 3, 5, 9)}, tmp_path)
    with pytest.raises(InputError, match=r"no such input; it takes ids \(free, free\), image \(4, 3, free, 8\)"):
        input_sizes(declared, {**given, "mask": (1, 12)}, tmp_path)


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", x=rng.normal(size=(60, 6)).astype(np.float32), y=np.arange(60) % 3)
    return DataSpec(path=tmp_path / "d.npz")


def written(kind, folder):
    module, x, path = nn.Linear(6, 3).eval(), torch.randn(2, 6), folder / f"m.{kind}"
    match kind:
        case "pt2":
            free = ({0: torch.export.Dim("batch")},)
            torch.export.save(torch.export.export(module, (x,), dynamic_shapes=free), path)
        case "yaml":
            (folder / "linear_of_shapes.py").write_text(
                "from torch import nn\n\ndef make():\n    return nn.Linear(6, 3)"
            )
            path.write_text("factory: linear_of_shapes:make\ninputs: {x: [6]}\n")
        case "onnx":
            ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", s]) for n, s in (("input", 6), ("y", 3))]
            nodes = [helper.make_node("MatMul", ["input", "w"], ["y"])]
            weight = numpy_helper.from_array(np.ones((6, 3), np.float32), "w")
            onnx.save(helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])), path)
    return path


def refused(path, data, shapes, words):
    with pytest.raises(InputError, match=words) as error:
        child.check(path, data.model_copy(update={"shapes": shapes}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["pt2", "yaml", "onnx"])
def test_what_is_fixed_stays_fixed(kind, tmp_path, data):
    path = written(kind, tmp_path)
    child.check(path, data.model_copy(update={"shapes": {"input": (1, 6)}}))
    for given, words in WRONG.values():
        refused(path, data, {"input": given}, words.format("input"))
    refused(path, data, {"picture": (1, 6)}, r"--shape picture: no such input; it takes input \(\w+, 6\)")


def test_tensorflow_models(tmp_path, data):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, "-c", KERAS, str(tmp_path)], check=True, env=environment, timeout=240)
    given, words = WRONG["a fixed axis"]
    refused(tmp_path / "m.keras", data, {"x": given}, words.format("x"))
    refused(tmp_path / "saved", data, {"picture": (1, 6)}, r"no such input; it takes \w+ \(free, 6\)")


def test_a_torchscript_archive_takes_the_sizes_that_its_layers_take(tmp_path, data):
    torch.jit.script(nn.Linear(6, 3)).save(tmp_path / "m.pt")
    child.check(tmp_path / "m.pt", data.model_copy(update={"shapes": {"input": (1, 6)}}))
    refused(
        tmp_path / "m.pt", data, {"input": (1, 4)}, r"cannot export anew for --shape input=1,4 .*sizes that its layers"
    )
    refused(tmp_path / "m.pt", data, {"input": (1, 6, 1)}, "has 2 axes; --shape gives 3")
    refused(tmp_path / "m.pt", data, {"picture": (1, 6)}, "no such input; it takes input")


def test_an_estimator_has_no_free_sizes(tmp_path, data):
    with np.load(data.path) as arrays:
        model = LogisticRegression().fit(arrays["x"], arrays["y"])
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(model))
    refused(tmp_path / "m.pkl", data, {"x": (1, 6)}, re.escape("a scikit-learn model has no input of free sizes"))
