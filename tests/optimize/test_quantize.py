"""int8 in the exported file: how it was calibrated, and which layers were left in float."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from torch import fx

from edgewright.artifact import Dataset, ImportedModel, Precision
from edgewright.errors import UnsupportedError
from edgewright.export import export
from edgewright.export.stored import StoredModel, describe
from edgewright.profile import Platform
from edgewright.recipe import Quantize
from edgewright.store import Store
from tests.optimize.networks import blobs, dataset, imported


class Case:
    """The network with one training row of which a pixel is far out."""

    def __init__(self, net: fx.GraphModule, folder: Path) -> None:
        self.store = Store(folder / "store")
        rows = blobs(600, 3)
        rows.inputs[0, 0, 0, 0] = 60.0
        self.model: ImportedModel = imported(net, self.store, folder)
        self.dataset: Dataset = dataset(net, self.store, folder, train=rows)

    def export(self, platform: Platform, params: Quantize) -> Path:
        """The int8 file."""
        made = export(self.model, self.dataset, platform, Precision.INT8, self.store, quantization=params)
        return made.artifact.path


@pytest.fixture(scope="module")
def case(model: fx.GraphModule, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(model, tmp_path_factory.mktemp("case"))


def input_scale(path: Path) -> float:
    """The scale that the model's own input is quantized with."""
    if path.suffix == ".onnx":
        graph = onnx.load(path).graph
        first = next(n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "image")
        scale = next(t for t in graph.initializer if t.name == first.input[1])
        return float(onnx.numpy_helper.to_array(scale))
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    first = next(op for op in interpreter._get_ops_details() if op["op_name"] == "QUANTIZE")
    return float(interpreter._get_tensor_details(first["outputs"][0], 0)["quantization"][0])


@pytest.mark.parametrize("platform", [Platform.ANDROID, Platform.EDGE_DEVICE])
def test_calibration_decides_the_scales_in_the_file(case, platform):
    methods = ("min_max", "percentile", "entropy")
    scale = {m: input_scale(case.export(platform, Quantize(calibration=m, percentile=99.9))) for m in methods}
    assert scale["min_max"] > 0.2  # 60 over 255 levels
    assert scale["percentile"] < 0.1
    assert scale["entropy"] < 0.1


@pytest.mark.parametrize("platform", list(Platform))
def test_float_layers_stay_float_in_the_file(case, platform):
    every, some = (describe(case.export(platform, Quantize(float_layers=kept))) for kept in ((), ("conv2",)))

    def in_eight_bits(stored: StoredModel) -> int:
        return sum(w.elements for w in stored.weights if "int8" in w.dtype)

    # Besides the weights, ONNX holds a zero point for each channel.
    assert 24 * 16 * 9 <= in_eight_bits(every) - in_eight_bits(some) < 24 * 16 * 9 + 100
    assert in_eight_bits(some) > 0


@pytest.mark.parametrize("platform", [Platform.ANDROID, Platform.EDGE_DEVICE])
def test_a_float_layer_that_is_not_there_is_named(case, platform):
    with pytest.raises(UnsupportedError, match=r"no layer 'conv9'; it has: conv1, conv2, fc1, fc2"):
        case.export(platform, Quantize(float_layers=("conv9",)))


def test_clipping_an_outlier_answers_more_exactly(case, model):
    from edgewright.artifact import Format
    from edgewright.export.runs import outputs_of
    from edgewright.optimize.training import predictions

    rows = blobs(200, 9).inputs
    exact = predictions(model, rows).numpy()
    error = {
        m: float(np.abs(outputs_of(path, Format.ONNX, {"image": rows.numpy()}, ["logits"])["logits"] - exact).mean())
        for m in ("min_max", "percentile")
        for path in [case.export(Platform.EDGE_DEVICE, Quantize(calibration=m, percentile=99.9))]
    }
    assert error["percentile"] < 0.7 * error["min_max"]
