"""``edgewright diagnose``: a model and a file that anybody made of it, on the command line and as a page."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn
from typer.testing import CliRunner

from edgewright.errors import InputError
from edgewright.export.diagnosis_report import Culprit, Diagnosis, LayerDifference, OutputDifference, Place
from edgewright.pipeline.cli import app
from edgewright.report.diagnosis import cells, diagnosis_html
from edgewright.validate.diagnosis import Diagnosed, verdict

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A source model, rows of its data, a sound file made of it with names of its own, and one that lost a bias."""
    place = tmp_path_factory.mktemp("diagnose")
    torch.manual_seed(1)
    layers = (nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3), nn.Softmax(-1))
    network = nn.Sequential(*layers).eval()
    with warnings.catch_warnings():  # of torch's exporter
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(2, 6),),
            place / "net[red].onnx",
            input_names=["features"],
            output_names=["scores"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    x = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    with torch.no_grad():
        y = network(torch.from_numpy(x)).argmax(1).numpy()
    np.savez(place / "data.npz", x=x, y=y)
    model = onnx.load(place / "net[red].onnx")
    for node in model.graph.node:
        node.input[:] = ["given" if name == "features" else name for name in node.input]
        node.output[:] = ["made" if name == "scores" else name for name in node.output]
    model.graph.input[0].name, model.graph.output[0].name = "given", "made"
    onnx.save(model, place / "sound.onnx")
    dense = [node for node in model.graph.node if node.op_type == "Gemm"][1]
    bias = next(t for t in model.graph.initializer if t.name == dense.input[2])
    bias.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(bias)), bias.name))
    onnx.save(model, place / "damaged.onnx")
    return place


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "EDGEWRIGHT_HOME": str(folder / "home"), "COLUMNS": "200", "NO_COLOR": "1"}
    line = [sys.executable, "-m", "edgewright", "diagnose", "net[red].onnx", "--data", "data.npz"]
    line += ["--platform", "edge_device", *words]
    return subprocess.run(line, capture_output=True, text=True, check=False, cwd=folder, env=environment, timeout=280)


def test_a_damaged_file_is_told_apart_layer_by_layer_with_exit_code_1(folder):
    done = run(folder, "--exported", "damaged.onnx", "--html", "page.html")
    assert done.returncode == 1, done.stderr
    (said,) = [line for line in done.stdout.splitlines() if line.startswith("disagrees")]
    assert "operator Gemm 'linear_1'" in said
    rows = [line for line in done.stdout.splitlines() if line.startswith("│")]
    wrong = [line for line in rows if "│ wrong" in line]
    assert len(wrong) == 1
    assert "Linear" in wrong[0]
    assert sum("agrees" in line for line in rows) >= 2
    assert sum("comes in wrong" in line for line in rows) >= 2
    page = (folder / "page.html").read_text()
    assert "<svg" in page
    assert "net[red].onnx" in page
    assert not (folder / "home").exists()  # a store of its own, gone by now


def test_a_sound_file_with_other_names_agrees_with_exit_code_0(folder):
    done = run(folder, "--exported", "sound.onnx")
    assert done.returncode == 0, done.stderr
    assert "agrees on" in done.stdout
    assert "wrong" not in done.stdout


def test_without_a_file_the_export_itself_is_diagnosed(folder):
    done = run(folder, "--precision", "float16")
    assert done.returncode == 0, done.stderr
    assert "float16" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent.onnx", "--data", "data.npz", "--platform", "ios"], "model absent.onnx: no such file"),
        (["net[red].onnx", "--data", "absent.npz", "--platform", "ios"], "data absent.npz: no such file"),
        (
            ["net[red].onnx", "--data", "data.npz", "--platform", "ios", "--exported", "no.onnx"],
            "exported file no.onnx",
        ),
        (
            ["net[red].onnx", "--data", "data.npz", "--platform", "ios", "--precision", "int3"],
            "one of float32, float16",
        ),
        (
            ["net[red].onnx", "--data", "data.npz", "--platform", "ios", "--exported", "sound.onnx"],
            "a onnx file; ios takes mlpackage",
        ),
    ],
)
def test_what_cannot_be_diagnosed_is_refused_in_one_line(folder, monkeypatch, words, message):
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(app, ["diagnose", *words])
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)


def noise(layer: str, **changes) -> LayerDifference:
    plain = {"kind": "Linear", "operator": "Gemm", "value": layer, "dtype": "float32", "snr_db": 140.0, "largest": 1e-7}
    return LayerDifference(**{"layer": layer, "own_snr_db": INF, "own_largest": 0.0, **plain, **changes})


def diagnosed(*layers: LayerDifference, dtype: str = "float32") -> Diagnosed:
    culprit = Culprit(
        operator=Place(kind="Gemm", value="b<"),
        layer="b<",
        kind="Linear",
        dtype=dtype,
        snr_db=20.0,
        largest=0.1,
        verified=True,
    )
    output = OutputDifference(name="y", snr_db=20.0, largest=0.1, whole_snr_db=20.0, whole_largest=0.1)
    found = Diagnosis(dtype=dtype, layers=layers, culprits=(culprit,), outputs=(output,), rows=4)
    return Diagnosed(
        holds=False, limit="0.0001", rows=200, outputs={"y<": "off"}, diagnosis=found, file="f.onnx", notes=("<b>",)
    )


def test_each_layer_has_a_verdict():
    layers = (
        noise("a"),
        noise("b<", snr_db=20.0, largest=0.1, own_snr_db=20.0, own_largest=0.1),
        noise("c", snr_db=20.0, largest=0.1),
        noise("d", operator="", value="", snr_db=NAN, largest=NAN, own_snr_db=NAN, own_largest=NAN),
        noise("e", snr_db=-INF, largest=INF, own_snr_db=-INF, own_largest=INF),
    )
    found = diagnosed(*layers)
    assert [verdict(found, one) for one in layers] == ["agrees", "wrong", "comes in wrong", "within another", "wrong"]
    assert cells(found, layers[3])[4:7] == ("", "", "")
    assert cells(found, layers[4])[4] == "lost"
    eight_bits = diagnosed(*layers, dtype="int8")
    assert verdict(eight_bits, layers[2]) == "rounded"


def test_a_page_escapes_what_others_named():
    page = diagnosis_html(diagnosed(noise("a"), noise("b<", snr_db=20.0, largest=0.1)), "<title>")
    assert "b&lt;" in page
    assert "&lt;title&gt;" in page
    assert "<b>" not in page.replace("<body>", "")
    assert "<script" not in page
    assert page.count('class="wrong"') == 1


def test_a_layer_that_no_operator_of_its_own_computes_is_wrong_with_the_one_that_does():
    found = diagnosed()
    swallowed = noise("b<", operator="", value="", snr_db=NAN, largest=NAN, own_snr_db=NAN, own_largest=NAN)
    assert verdict(found, swallowed) == "wrong"


def test_a_file_that_does_not_run_is_diagnosed_all_the_same(folder):
    model = onnx.load(folder / "sound.onnx")
    node = next(node for node in model.graph.node if node.op_type == "Tanh")
    node.CopyFrom(helper.make_node("Concat", list(node.input), list(node.output), name=node.name, axis=9))
    onnx.save(model, folder / "broken.onnx")
    done = run(folder, "--exported", "broken.onnx")
    assert done.returncode == 1, done.stderr
    assert "Concat" in done.stdout
