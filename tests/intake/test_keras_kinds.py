"""Keras networks of many kinds, old and new: each has a graph with a free batch that answers as TensorFlow does."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from edgewright.artifact import Format, Precision
from edgewright.data import DataSpec
from edgewright.errors import ConversionError, InputError, UnsupportedError
from edgewright.export import export, ios
from edgewright.export.kept_float import converted
from edgewright.intake import child, torch_graph
from edgewright.profile import Platform
from edgewright.store import Store
from edgewright.validate.evaluation import source_answers

pytestmark = pytest.mark.filterwarnings("ignore")
KINDS = (
    "odd_sizes",
    "one_dimension",
    "groups",
    "transposed",
    "named",
    "pixels",
    "resized",
    "odd_sizes_resized",
    "attention",
    "volumes",
    "small_numbers",
    "categories",
)


def made(folder, *names):
    """Keras runs in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name("keras_networks.py")), str(folder), *names]
    subprocess.run(command, check=True, capture_output=True, timeout=280)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras")
    made(folder, "same_stride", "heads", "no_onnx", "no_way", "smaller")
    return folder


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras")
    made(folder, *KINDS, "masked")
    return folder


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    made(folder, "old_resnet", "old_masked")
    return folder


def taken(folder, file, tmp_path):
    spec = DataSpec(path=folder / f"{Path(file).stem.removesuffix('_saved')}.npz")
    return child.take_in(folder / file, spec, tmp_path / "store", "model")


def assert_agrees(intake):
    """Batches of 1, 2 and 7 rows, each output."""
    assert intake.model.graph is not None, intake.model.graph_refusal
    arrays = np.load(intake.dataset.artifact.path)
    graph = torch_graph.load(intake.model.graph.path)
    for rows in (1, 2, 7):
        inputs = [torch.from_numpy(arrays[f"test.x.{t.name}"][:rows]) for t in intake.model.inputs]
        with torch.no_grad():
            got = graph(*inputs)
        for tensor, values in zip(intake.model.outputs, got if isinstance(got, tuple) else (got,), strict=True):
            expected = arrays[f"test.reference.{tensor.name}"][:rows]
            np.testing.assert_allclose(values.numpy(), expected, atol=1e-5, rtol=1e-4)
    return graph


def test_padding_same_with_a_stride_leaves_the_batch_free(plain, tmp_path):
    assert_agrees(taken(plain, "same_stride.keras", tmp_path))


def test_two_inputs_and_two_outputs_keep_their_names(plain, tmp_path):
    intake = taken(plain, "heads.keras", tmp_path)
    assert [t.name for t in intake.model.inputs] == ["image", "extra"]
    assert [(t.name, t.shape) for t in intake.model.outputs] == [("kind", (-1, 3)), ("age", (-1, 1))]
    assert len(intake.model.labels) == 3
    assert_agrees(intake)


def test_a_model_without_onnx_is_taken_in_by_its_answers_alone(plain, tmp_path):
    """Its own platforms' converters take the file; no operator of it has an ONNX form."""
    intake = taken(plain, "no_onnx.keras", tmp_path)
    model = intake.model
    assert (model.onnx, model.graph, model.inside) == (None, None, None)
    assert "tf2onnx: no ONNX operator for MatrixInverse (node '" in str(model.graph_refusal)
    assert any(note.startswith("neither ONNX nor a graph:") for note in model.notes)
    arrays = np.load(intake.dataset.artifact.path)
    assert len(arrays["validation.reference.output"]) == intake.dataset.validation_rows
    assert len(arrays["calibration.reference.output"]) == intake.dataset.calibration_rows
    assert source_answers(model, intake.dataset, "calibration")[1].shape == (intake.dataset.calibration_rows,)
    store = Store(tmp_path / "store")
    with pytest.raises(UnsupportedError, match=r"no path to edge_device: .*MatrixInverse"):
        export(model, intake.dataset, Platform.EDGE_DEVICE, Precision.FLOAT32, store)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_many_kinds_of_layers(others, tmp_path, name):
    intake = taken(others, f"{name}.keras", tmp_path)
    assert_agrees(intake)
    if name == "named":  # in the order in which TensorFlow flattens dictionaries
        assert [t.name for t in intake.model.inputs] == ["a_second", "b_first"]
        assert [t.name for t in intake.model.outputs] == ["feature", "score"]


@pytest.mark.slow
def test_masked_steps_are_written_out_with_each_weight_once(others, tmp_path):
    """A loop over masked steps has no path but ONNX Runtime's; Keras itself masks backwards steps wrongly then."""
    graph = assert_agrees(taken(others, "masked.keras", tmp_path))
    layers = [m for m in graph.modules() if isinstance(m, torch.nn.Linear)]
    assert len(layers) < 20


@pytest.mark.slow
@pytest.mark.parametrize("platform", list(Platform))
@pytest.mark.parametrize("name", ["resized", "odd_sizes_resized"])
def test_every_way_of_resizing_comes_through(others, tmp_path, name, platform):
    intake = taken(others, f"{name}.keras", tmp_path)
    assert intake.model.graph_refusal is None
    export(intake.model, intake.dataset, platform, Precision.FLOAT32, Store(tmp_path / "store"))


def test_a_way_of_resizing_that_keras_3_does_not_know_is_named_with_its_layer(plain, tmp_path):
    """A file of Keras 2 may name it; Keras 3 loads that, and fails at the first call."""
    with zipfile.ZipFile(plain / "smaller.keras") as saved, zipfile.ZipFile(tmp_path / "blurred.keras", "w") as other:
        for entry in saved.namelist():
            other.writestr(entry, saved.read(entry).replace(b'"bicubic"', b'"gaussian"'))
    shutil.copy(plain / "smaller.npz", tmp_path / "blurred.npz")
    with pytest.raises(InputError, match=r"layer 'smaller' resizes by 'gaussian', which Keras 3.* does not compute: "):
        taken(tmp_path, "blurred.keras", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["masked_saved", "heads_saved"])
def test_a_saved_model_of_today(others, plain, tmp_path, file):
    assert_agrees(taken(others if file == "masked_saved" else plain, file, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("file", ["old_resnet.h5", "old_resnet_saved", "old_masked.h5", "old_masked_saved"])
def test_files_of_keras_2(old, tmp_path, file):
    """A residual network as an embedded benchmark has it, and masked recurrent layers."""
    assert_agrees(taken(old, file, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("platform", [Platform.ANDROID, Platform.IOS])
def test_without_a_graph_the_platforms_own_converter_takes_the_source(plain, tmp_path, platform):
    """LiteRT and Core ML have no matrix inverse either: the refusal names it, in one line."""
    intake = taken(plain, "no_onnx.keras", tmp_path)
    with pytest.raises(
        UnsupportedError, match=r"no path to \w+: .*tf2onnx.*MatrixInverse.*TensorFlow.*MatrixInverse"
    ) as e:
        export(intake.model, intake.dataset, platform, Precision.FLOAT32, Store(tmp_path / "store"))
    assert "\n" not in str(e.value)
    assert "\x1b" not in str(e.value)


@pytest.mark.slow
@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.INT8])
@pytest.mark.parametrize("platform", [Platform.ANDROID, Platform.IOS])
def test_a_source_whose_graph_was_refused_is_converted_and_quantized(plain, tmp_path, platform, precision):
    """What intake made is taken away: the platform's own converter and quantizer do without."""
    intake = taken(plain, "heads.keras", tmp_path)
    model = intake.model.model_copy(update={"onnx": None, "graph": None, "graph_refusal": "operator Odd (node 'x')"})
    store = Store(tmp_path / "store")
    exported = export(model, intake.dataset, platform, precision, store)
    assert [t.name for t in exported.outputs] == ["kind", "age"]
    assert any("TensorFlow" in note and "operator Odd (node 'x')" in note for note in exported.notes)
    assert exported.artifact.format is (Format.TFLITE if platform is Platform.ANDROID else Format.MLPACKAGE)


@pytest.mark.slow
def test_what_half_precision_loses_does_not_keep_a_source_from_int8(plain, tmp_path, monkeypatch):
    """float32 alone decides by which way Core ML's file is made."""

    def lossy(model, dataset, precision, make):
        if precision is Precision.FLOAT16:
            raise ConversionError("output 'kind' is off by 0.02: rounding adds up")
        return converted(model, dataset, precision, make)

    monkeypatch.setattr(ios, "converted", lossy)
    intake = taken(plain, "heads.keras", tmp_path)
    exported = export(intake.model, intake.dataset, Platform.IOS, Precision.INT8, Store(tmp_path / "store"))
    assert exported.artifact.format is Format.MLPACKAGE
    assert not any("TensorFlow" in note for note in exported.notes)
