"""Wrong rewrites planted into exported files: each is found, and its operator and layer are named."""

import numpy as np
import pytest

from edgewright.artifact import Format
from edgewright.export.diagnosis.finding import find
from edgewright.export.diagnosis_report import Diagnosis
from tests.export import defects_in_mlpackage, defects_in_onnx, defects_in_tflite, planted_network

pytestmark = pytest.mark.filterwarnings("ignore:.*torchvision.*")

FORMATS = {"android": Format.TFLITE, "ios": Format.MLPACKAGE, "edge_device": Format.ONNX}
SUITES = {"android": defects_in_tflite, "ios": defects_in_mlpackage, "edge_device": defects_in_onnx}
CASES = [(platform, defect) for platform, suite in SUITES.items() for defect in suite.DEFECTS]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return planted_network.exported(tmp_path_factory.mktemp("network"))


def compared(files, platform, path) -> Diagnosis:
    return find((files["graph"], Format.TORCH_GRAPH), (path, FORMATS[platform]), planted_network.rows(), ["scores"])


@pytest.mark.parametrize(("platform", "defect"), CASES, ids=[f"{p}: {d}" for p, d in CASES])
def test_a_planted_defect_is_found_and_named(files, tmp_path, platform, defect):
    suite = SUITES[platform]
    _, operator, layers = suite.DEFECTS[defect]
    finding = compared(files, platform, suite.planted(files[platform], defect, tmp_path))
    assert len(finding.culprits) == 1, finding.culprits
    culprit = finding.culprits[0]
    assert culprit.operator.kind == operator
    assert culprit.layer in layers
    assert culprit.verified
    assert finding.outputs[0].largest > 1e-4


@pytest.mark.parametrize("platform", FORMATS)
def test_a_sound_file_has_no_culprit_and_every_layer_in_it(files, platform):
    finding = compared(files, platform, files[platform])
    assert finding.culprits == ()
    assert finding.outputs[0].largest < 1e-5
    # What converters fold into the weights before or behind it: batch norms, and LiteRT what scales or shifts.
    swallowed = {layer.layer for layer in finding.layers if not layer.value}
    assert swallowed <= {"stem", "depth", "attention.norm", "mul_3"}
    found = [layer for layer in finding.layers if layer.value]
    assert len(found) > 40
    assert all(layer.snr_db > 90 and layer.largest < 1e-5 for layer in found)


@pytest.mark.parametrize("platform", FORMATS)
def test_at_least_twelve_defects_are_planted_on_each_platform(platform):
    assert len(SUITES[platform].DEFECTS) >= 12


def test_two_defects_are_both_found_in_order(files, tmp_path):
    once = defects_in_onnx.planted(files["edge_device"], "wrong slope", tmp_path)
    (tmp_path / "twice").mkdir()
    twice = defects_in_onnx.planted(once, "dropped bias", tmp_path / "twice")
    culprits = compared(files, "edge_device", twice).culprits
    assert [(c.operator.kind, c.layer) for c in culprits] == [("LeakyRelu", "leaky"), ("Gemm", "up")]


def test_what_is_behind_a_culprit_is_measured_as_it_runs_and_as_it_is(files, tmp_path):
    path = defects_in_onnx.planted(files["edge_device"], "wrong slope", tmp_path)
    layers = {layer.layer: layer for layer in compared(files, "edge_device", path).layers}
    assert layers["wide"].snr_db > 100
    assert layers["leaky"].snr_db < 30
    assert layers["depth_norm"].snr_db < 60  # what comes in is wrong
    assert layers["depth_norm"].own_snr_db > 100  # but the operator is not


def test_an_operator_that_does_not_run_is_named(files, tmp_path):
    import onnx

    model = onnx.load(files["edge_device"])
    node = defects_in_onnx.nodes(model, "Concat")[0]
    defects_in_onnx.attribute(node, "axis", 7)
    onnx.save(model, tmp_path / "broken.onnx")
    culprit = compared(files, "edge_device", tmp_path / "broken.onnx").culprits[0]
    assert (culprit.operator.kind, culprit.layer) == ("Concat", "cat")
    assert "Concat" in culprit.failure


def test_rows_are_those_of_a_trained_network():
    images = np.concatenate([row["image"] for row in planted_network.rows()])
    assert images.shape == (planted_network.ROWS, 3, 16, 16)
