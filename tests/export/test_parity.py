"""A conversion that went wrong is refused, and the layer where it went wrong is named."""

import dataclasses
import os
import shutil

import numpy as np
import pytest

from edgewright.artifact import Format, Precision
from edgewright.errors import ConversionError, DisagreementError, UnsupportedError
from edgewright.export import mlpackage, parity_check, tflite
from edgewright.export.declaration import Checked
from edgewright.export.declared import checked
from edgewright.profile import Platform
from edgewright.store import Store

pytestmark = pytest.mark.filterwarnings("ignore:.*torchvision.*")


def damaged_tflite(source, folder):
    """The bias of the dense layer dropped, as a published conversion once did: accuracy hardly showed it."""
    model = tflite.load(source.path)
    graph = model.subgraphs[0]
    dense = next(o for o in graph.operators if tflite.operator_name(model, o) == "FULLY_CONNECTED")
    buffer = model.buffers[graph.tensors[dense.inputs[2]].buffer]
    buffer.data = np.zeros(len(buffer.data), np.uint8)
    path = folder / "damaged.tflite"
    tflite.save(model, path)
    return path


def damaged_mlpackage(source, folder):
    """The first convolution padded on the wrong side."""
    path = folder / "damaged.mlpackage"
    shutil.copytree(source.path, path)
    specification = mlpackage.load(path)
    block = mlpackage.program_of(specification, path)
    pad = next(o for o in block.operations if o.type == "const" and o.outputs[0].name.endswith("pad_0"))
    pad.attributes["val"].immediateValue.tensor.ints.values[:] = [2, 0, 1, 1]
    (path / "Data/com.apple.CoreML/model.mlmodel").write_bytes(specification.SerializeToString())
    return path


def damaged_onnx(source, folder):
    """The weights of the dense layer in another order."""
    import onnx

    model = onnx.load(source.path)
    dense = next(n for n in model.graph.node if n.op_type == "Gemm")
    weight = next(t for t in model.graph.initializer if t.name == dense.input[1])
    changed = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight)[::-1].copy(), weight.name)
    weight.CopyFrom(changed)
    path = folder / "damaged.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("platform", "damage", "operator", "layer"),
    [
        (Platform.ANDROID, damaged_tflite, "FULLY_CONNECTED", "Gemm"),
        (Platform.IOS, damaged_mlpackage, "conv", "BatchNormalization"),
        (Platform.EDGE_DEVICE, damaged_onnx, "Gemm", "Gemm"),
    ],
)
def test_a_wrong_conversion_is_refused_and_placed(digits, tmp_path, platform, damage, operator, layer):
    right = digits.exported(platform, Precision.FLOAT32).artifact
    wrong = Store(tmp_path).put(damage(right, tmp_path), right.format)
    place = rf"they diverge at layer '.*' \({layer}\).* operator {operator} '"
    message = rf"output 'probabilities' is off by .* real rows; {place}"
    with pytest.raises(DisagreementError, match=message) as caught:
        checked(digits.model, wrong, digits.dataset, Precision.FLOAT32)
    assert caught.value.exported == wrong
    assert caught.value.diagnosis.culprits[0].operator.kind == operator


def test_a_right_conversion_is_accepted_against_the_graph_too(digits):
    changed = digits.model.model_copy(
        update={"graph": digits.model.graph.model_copy(update={"parent": "changed since"})}
    )
    right = digits.exported(Platform.ANDROID, Precision.FLOAT32).artifact
    declared = checked(changed, right, digits.dataset, Precision.FLOAT32)
    assert not [note for note in declared.notes if "differ" in note]
    assert [t.name for t in declared.outputs] == ["probabilities"]


def crash(**_: object) -> Checked:
    """In a child process: what LiteRT does to some int8 files."""
    os.abort()


def test_a_file_that_its_runtime_crashes_on_is_refused_in_words(digits, monkeypatch):
    monkeypatch.setattr("edgewright.export.declared.check", crash)
    right = digits.exported(Platform.ANDROID, Precision.FLOAT32).artifact
    with pytest.raises(UnsupportedError, match=r"\.tflite: .* runtime crashes on this file in int8 \(SIGABRT\)"):
        checked(digits.model, right, digits.dataset, Precision.INT8)


def test_a_missing_output_is_refused(digits):
    renamed = dataclasses.replace(digits.model.outputs[0], name="scores")
    model = digits.model.model_copy(update={"outputs": (renamed,)})
    right = digits.exported(Platform.ANDROID, Precision.FLOAT32).artifact
    with pytest.raises(ConversionError):
        checked(model, right, digits.dataset, Precision.FLOAT32)


def test_formats_are_those_of_the_files(digits):
    found = {p: digits.exported(p, Precision.FLOAT32).artifact.format for p in Platform}
    assert found == {
        Platform.ANDROID: Format.TFLITE,
        Platform.IOS: Format.MLPACKAGE,
        Platform.EDGE_DEVICE: Format.ONNX,
    }


def test_an_operator_that_nobody_knows_makes_parity_unchecked_never_passed(digits, tmp_path):
    path = tmp_path / "unknown.mlpackage"
    shutil.copytree(digits.exported(Platform.IOS, Precision.FLOAT32).artifact.path, path)
    specification = mlpackage.load(path)
    next(o for o in mlpackage.program_of(specification, path).operations if o.type == "relu").type = "reluctant"
    (path / "Data/com.apple.CoreML/model.mlmodel").write_bytes(specification.SerializeToString())
    unknown = Store(tmp_path / "store").put(path, Format.MLPACKAGE)
    declared = checked(digits.model, unknown, digits.dataset, Precision.FLOAT32)
    assert declared.notes == ("the Core ML operator 'reluctant' is not known to the evaluator: parity not checked",)


def test_what_xcode_shows_is_filled_in(digits):
    description = mlpackage.load(digits.exported(Platform.IOS, Precision.INT8).artifact.path).description
    shown = description.metadata
    assert shown.shortDescription == "digits: classification, 10 classes"
    assert shown.author == "Converted by Edgewright"
    assert shown.versionString == digits.model.source.digest[:12]
    assert [feature.shortDescription for feature in description.input] == ["float32 1x1x8x8"]
    assert all(label in description.output[0].shortDescription for label in digits.model.labels)
    assert shown.userDefined["edgewright.source_digest"] == digits.model.source.digest


@pytest.mark.parametrize(("validation", "calibration", "compared"), [(300, 50, 200), (30, 400, 200), (30, 40, 70)])
def test_parity_takes_200_real_rows_or_all_there_are(validation, calibration, compared, tmp_path):
    """Validation rows first: no training saw them."""
    first, rest = np.arange(validation), 1000 + np.arange(calibration)
    np.savez(tmp_path / "d.npz", **{"validation.x.a": first[:, None], "calibration.x.a": rest[:, None]})
    rows = parity_check.real_rows(tmp_path / "d.npz", ["a"])["a"][:, 0]
    assert len(np.unique(rows)) == compared
    assert (rows < 1000).sum() == min(validation, 200)
