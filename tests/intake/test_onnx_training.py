import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgewright.data import DataSpec
from edgewright.errors import InputError
from edgewright.intake import child
from edgewright.intake.onnx_source import load_onnx
from edgewright.intake.onnx_training import refuse_training_mode

pytestmark = pytest.mark.filterwarnings("ignore")

REFUSED = r"m\.onnx: the model was exported in training mode \({} '.*model\.eval\(\) before the export"


class Network(nn.Module):
    def __init__(self, middle):
        super().__init__()
        self.into, self.middle, self.head = nn.Linear(6, 12), middle, nn.Linear(12, 3)

    def forward(self, x):
        return self.head(self.middle(torch.relu(self.into(x))))


def exported(module, folder, opset, training):
    x = torch.randn(8, 6)
    module(x)
    mode = torch.onnx.TrainingMode.TRAINING if training else torch.onnx.TrainingMode.EVAL
    options = {"training": mode, "do_constant_folding": False, "opset_version": opset, "dynamo": False}
    torch.onnx.export(module, (x,), folder / "m.onnx", dynamic_axes={"x": {0: "n"}}, input_names=["x"], **options)
    return load_onnx(folder / "m.onnx")


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("layer", [nn.Dropout(0.4), nn.BatchNorm1d(12)], ids=["Dropout", "BatchNormalization"])
def test_what_torch_exports_in_training_mode_is_refused(layer, opset, tmp_path):
    name = "Dropout" if isinstance(layer, nn.Dropout) else "BatchNormalization"
    model = exported(Network(layer).train(), tmp_path, opset, training=True)
    with pytest.raises(InputError, match=REFUSED.format(name)) as error:
        refuse_training_mode(model, "m.onnx")
    assert "\n" not in str(error.value)
    refuse_training_mode(exported(Network(layer).eval(), tmp_path, opset, training=False), "m.onnx")


class OfInstances(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.weight = nn.InstanceNorm2d(3), nn.Parameter(torch.randn(4, 3, 3, 3))

    def forward(self, x):
        kernel = nn.functional.batch_norm(self.weight.reshape(1, 4, -1), None, None, training=True)
        return nn.functional.conv2d(self.norm(x), kernel.reshape(4, 3, 3, 3)).mean((2, 3))


def test_instances_and_standardized_weights_are_not_training(tmp_path):
    module = OfInstances().train()
    torch.onnx.export(module, (torch.randn(2, 3, 8, 8),), tmp_path / "m.onnx", dynamo=False, opset_version=17)
    refuse_training_mode(load_onnx(tmp_path / "m.onnx"), "m.onnx")


def dropout(ratio, *, inside):
    constants = [
        numpy_helper.from_array(np.array(ratio, np.float32), "r"),
        numpy_helper.from_array(np.array(1, bool), "t"),
    ]
    node = helper.make_node("Dropout", ["x", "r", "t"], ["y"], name="drop")
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3]) for n in "xy")
    if inside:
        choice = numpy_helper.from_array(np.array(1, bool), "choice")
        branches = {f"{b}_branch": helper.make_graph([node], b, [], [y]) for b in ("then", "else")}
        node = helper.make_node("If", ["choice"], ["y"], **branches)
        constants.append(choice)
    return helper.make_model(helper.make_graph([node], "g", [x], [y], constants))


def test_a_branch_is_looked_into_and_a_ratio_of_zero_drops_nothing():
    for inside in (False, True):
        with pytest.raises(InputError, match=REFUSED.format("Dropout")):
            refuse_training_mode(dropout(0.5, inside=inside), "m.onnx")
        refuse_training_mode(dropout(0.0, inside=inside), "m.onnx")


def test_it_is_said_before_the_model_answers_anything(tmp_path):

    onnx.save(dropout(0.5, inside=False), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=np.zeros((20, 3), np.float32), y=np.arange(20) % 3)
    with pytest.raises(InputError, match="exported in training mode"):
        child.check(tmp_path / "m.onnx", DataSpec(path=tmp_path / "d.npz"))
