"""A deployment from a Python session: the model and its data as they are there."""

import inspect
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edgewright as ew
from edgewright.errors import InputError
from edgewright.pipeline.parameters import DeploymentParameters
from edgewright.recipe import Prune, Quantize

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEWRIGHT_HOME", str(tmp_path / "home"))
    return tmp_path


def test_a_module_is_deployed_with_a_recipe_of_values(home: Path) -> None:
    torch.manual_seed(0)
    network, rows = nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 3)), torch.randn(300, 24)
    with torch.no_grad():
        answers = network(rows).argmax(1)
    recipe = [Prune(sparsity=0.3, training=None, keep="always"), Quantize()]

    result = ew.deploy(
        network, (rows, answers), platform="edge_device", recipe=recipe, name="three", max_accuracy_drop=50
    )

    assert (result.status, result.error) == ("succeeded", None)
    assert result.release is not None
    assert result.release.line.startswith("three.edge_device.")
    assert [step.technique for step in result.optimization.steps] == ["prune", "quantize"]
    frame = result.to_frame()
    assert list(frame.index) == ["float32", "prune", "quantize"]
    assert (frame["size_bytes"] > 0).all()
    assert "<iframe srcdoc=" in result._repr_html_()
    assert "three" in result._repr_html_()

    # A session goes on: what served the first run has ended, and left nothing behind.
    assert "PREFECT_API_URL" not in os.environ
    over = ew.deploy(network, (rows, answers), platform="edge_device", name="three", max_size_mb=0.001)
    assert (over.status, over.over_budget, over.release) == ("failed", True, None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"platform": "toaster"}, "platform = 'toaster': input should be 'ios', 'android' or 'edge_device'"),
        ({"platform": "ios", "max_latency": 3}, "unknown option 'max_latency'; allowed: .*max_latency_ms"),
        ({"platform": "ios", "name": "a/b"}, "a/b"),
        ({}, "neither a device nor a platform is given"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(home: Path, options: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        ew.deploy(nn.Linear(4, 2), torch.randn(30, 4), **options)
    assert "\n" not in str(caught.value)
    assert not [path for path in (home / "home").rglob("*") if path.is_file() and "scratch" not in path.parts]


def test_what_is_left_out_is_what_the_command_line_leaves_out(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgewright.pipeline.python.run_deployments", list)
    given = ew.deploy(nn.Linear(4, 2), torch.randn(30, 4), platform="ios", task="none")
    by_hand = DeploymentParameters.of({"model": given.model, "data": given.data, "platform": "ios", "name": given.name})
    assert given == by_hand
    own = [name for name, p in inspect.signature(ew.deploy).parameters.items() if p.default not in (p.empty, None)]
    assert not own, "a default beside that of DeploymentParameters"


def test_what_the_package_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'deplo'"):
        ew.deplo  # noqa: B018


def test_a_segmenter_is_judged_by_its_overlap(home: Path) -> None:
    chance = np.random.default_rng(0)
    pictures = chance.normal(size=(240, 2, 13, 9)).astype(np.float32)
    torch.manual_seed(0)
    network = nn.Conv2d(2, 3, 3, padding=1).eval()
    with torch.no_grad():
        classes = network(torch.from_numpy(pictures)).argmax(1).numpy()
    classes[chance.random(classes.shape) < 0.1] = 0  # not all of them are what the network says
    classes[:, 0] = 255
    result = ew.deploy(network, (pictures, classes), platform="edge_device", metric="mean_iou", name="segmenter")
    assert result.error is None
    assert result.report is not None
    baseline, found = result.report.baseline.accuracy, result.report.candidate.accuracy
    assert baseline is not None
    assert found is not None
    assert found.metric == "mean_iou"
    assert 0.7 < baseline.low < baseline.value < baseline.high < 1
    assert found.low < found.value < found.high
    assert result.report.drop_test == "paired bootstrap of mean_iou"

    over = ew.deploy(network, (pictures, classes[:, 0, 0]), platform="edge_device", metric="mean_iou", name="segmenter")
    assert over.error is not None
    assert "metric mean_iou: answers are not a class for each pixel" in over.error
    assert over.release is None
