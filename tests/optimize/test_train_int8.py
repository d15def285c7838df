"""Training for int8, and the scales that it learnt in the exported files."""

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import fx

from edgewright.artifact import Format, Precision
from edgewright.errors import UnsupportedError
from edgewright.export import export, tflite
from edgewright.export.runs import outputs_of
from edgewright.intake import torch_graph
from edgewright.optimize.child import transformed
from edgewright.optimize.prune import prune
from edgewright.optimize.train_int8 import INPUT_RANGES, train_int8
from edgewright.profile import Platform
from edgewright.recipe import Fuse, Prune, Training, TrainInt8
from edgewright.store import Store
from tests.optimize.networks import LAYERS, accuracy, blobs, dataset, imported

PARAMS = TrainInt8(training=Training(epochs=3, batch_size=64, learning_rate=1e-3))


@pytest.fixture(scope="module")
def trained(model: fx.GraphModule, rows) -> fx.GraphModule:
    return train_int8(model, PARAMS, rows)


def steps_of(net: fx.GraphModule, layer: str) -> torch.Tensor:
    """The step of each output channel, as a quantizer finds it in the weights."""
    return net.get_submodule(layer).weight.detach().abs().flatten(1).amax(1) / 127


def test_weights_lie_on_the_grid_that_a_quantizer_will_find(trained, model, rows):
    for layer in LAYERS:
        weight = trained.get_submodule(layer).weight.detach().flatten(1)
        levels = weight / steps_of(trained, layer)[:, None]
        assert torch.allclose(levels, levels.round(), atol=1e-3)
    assert accuracy(trained, rows) > accuracy(model, rows) - 0.03


def test_steps_are_learnt_and_clip_what_is_far_out(trained, model):
    from edgewright.optimize.fuse import fuse

    before, after = (steps_of(net, "conv2") for net in (fuse(model), trained))
    assert not torch.allclose(before, after, rtol=1e-3)


def test_zeros_stay_zero(model, rows):
    pruned = prune(model, Prune(sparsity=0.6, training=None), None)
    after = train_int8(pruned, PARAMS.model_copy(update={"training": Training(epochs=1)}), rows)
    for layer in ("conv2", "fc1", "fc2"):
        zero = pruned.get_submodule(layer).weight == 0
        assert (after.get_submodule(layer).weight[zero] == 0).all()


def test_the_ranges_are_kept_in_the_graph_file_until_the_weights_change(trained, tmp_path):
    torch_graph.save(trained, tmp_path / "net.safetensors")
    again = torch_graph.load(tmp_path / "net.safetensors")
    assert again.meta[INPUT_RANGES] == trained.meta[INPUT_RANGES]
    assert set(again.meta[INPUT_RANGES]) == set(LAYERS)
    assert INPUT_RANGES not in transformed(copy.deepcopy(again), Fuse(), tmp_path).meta


def test_without_rows_it_is_refused(model):
    with pytest.raises(UnsupportedError, match="training rows"):
        train_int8(model, PARAMS, None)


@pytest.fixture(scope="module")
def files(trained, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    store = Store(folder / "store")
    made, data = imported(trained, store, folder), dataset(trained, store, folder, train=blobs(400, 3))
    asked = {
        "tflite": (Platform.ANDROID, "arm64"),
        "x86": (Platform.EDGE_DEVICE, "x86_64"),
        "arm": (Platform.EDGE_DEVICE, "arm64"),
    }
    return {
        name: export(made, data, platform, Precision.INT8, store, instruction_set=isa, dot_products=True).artifact.path
        for name, (platform, isa) in asked.items()
    }


def test_weights_of_7_bits_are_in_the_file_as_they_were_trained(model, rows, tmp_path):
    """For x86 without dot products."""
    params = PARAMS.model_copy(update={"weight_bits": 7, "training": Training(epochs=1, batch_size=64)})
    narrow = train_int8(model, params, rows)
    store = Store(tmp_path / "store")
    made, data = imported(narrow, store, tmp_path), dataset(narrow, store, tmp_path, train=blobs(400, 3))
    file = export(made, data, Platform.EDGE_DEVICE, Precision.INT8, store, instruction_set="x86_64").artifact.path
    for layer, (weight_scales, _, _, weight) in scales_in_onnx(file).items():
        steps = narrow.get_submodule(layer).weight.detach().abs().flatten(1).amax(1) / 64
        assert np.allclose(weight_scales, steps.numpy(), rtol=1e-5)
        levels = narrow.get_submodule(layer).weight.detach().flatten(1) / steps[:, None]
        assert np.allclose(levels, levels.round(), atol=1e-3)
        assert sorted(weight.ravel().tolist()) == sorted(levels.round().int().flatten().tolist())


def test_the_device_decides_the_bits_that_are_trained(monkeypatch):
    from edgewright.profile import load_device
    from tasks import optimize

    asked = []
    monkeypatch.setattr(optimize, "run", lambda step, model, params, *_: asked.append(params.weight_bits))
    for device in ("generic_edge_device", "raspberry_pi_5", "pixel_8"):
        optimize.compress(None, TrainInt8(), None, load_device(device))
    optimize.compress(None, TrainInt8(weight_bits=7), None, load_device("pixel_8"))
    assert asked == [7, 8, 8, 7]


def scales_in_onnx(path: Path) -> dict[str, tuple[np.ndarray, float, int, np.ndarray]]:
    """{layer: (weight scales, input scale, input zero point of 0..255, int8 weight)} by the size of the weight."""
    graph = onnx.load(path).graph
    held = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    found = {}
    for node in graph.node:
        if node.op_type in {"Conv", "Gemm", "MatMul"}:
            given, weight = made_by[node.input[0]], made_by[node.input[1]]
            zero = held[given.input[2]]
            found[_layer(held[weight.input[0]].size)] = (
                held[weight.input[1]],
                float(held[given.input[1]]),
                int(zero) + (128 if zero.dtype == np.int8 else 0),
                held[weight.input[0]],
            )
    return found


def scales_in_tflite(path: Path) -> dict[str, tuple[np.ndarray, float, int, np.ndarray]]:
    model = tflite.load(path)
    tensors = model.subgraphs[0].tensors
    found = {}
    for operator in model.subgraphs[0].operators:
        if tflite.operator_name(model, operator) in {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}:
            given, weight = (tensors[int(i)] for i in operator.inputs[:2])
            values = np.asarray(model.buffers[weight.buffer].data).view(np.int8)
            found[_layer(values.size)] = (
                np.asarray(weight.quantization.scale),
                float(given.quantization.scale[0]),
                int(given.quantization.zeroPoint[0]) + 128,
                values,
            )
    return found


def _layer(size: int) -> str:
    return {144: "conv1", 3456: "conv2", 4608: "fc1", 192: "fc2"}[size]


@pytest.mark.parametrize("name", ["x86", "arm", "tflite"])
def test_the_exported_file_uses_the_learnt_scales(files, trained, name):
    found = (scales_in_tflite if name == "tflite" else scales_in_onnx)(files[name])
    assert set(found) == set(LAYERS)
    for layer, (weight_scales, input_scale, zero, weight) in found.items():
        step, point = trained.meta[INPUT_RANGES][layer]
        assert input_scale == pytest.approx(step, rel=1e-4)
        assert zero == point
        assert np.allclose(weight_scales, steps_of(trained, layer).numpy(), rtol=1e-5)
        levels = trained.get_submodule(layer).weight.detach().flatten(1) / steps_of(trained, layer)[:, None]
        assert sorted(weight.ravel().tolist()) == sorted(levels.round().int().flatten().tolist())


@pytest.mark.parametrize(("name", "form"), [("x86", Format.ONNX), ("tflite", Format.TFLITE)])
def test_the_exported_file_answers_as_training_saw_it(files, trained, name, form):
    rows = blobs(200, 9)
    answers = outputs_of(files[name], form, {"image": rows.inputs.numpy()}, ["logits"])["logits"]
    agreed = (answers.argmax(1) == rows.targets.numpy()).mean()
    assert agreed > accuracy(trained, rows) - 0.02
