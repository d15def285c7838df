"""A technique of another distribution: one file and its entry point, and recipes name it as any other."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgewright.intake import torch_graph

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TECHNIQUE = '''
"""Every weight times a factor."""
from typing import ClassVar, Literal

from pydantic import Field

from edgewright.recipe import Technique


class Scale(Technique):
    """Multiply every parameter."""

    title: ClassVar[str] = "Scaling weights"
    function: ClassVar[str] = "toy_scale:scale"

    technique: Literal["scale"] = "scale"
    factor: float = Field(0.5, gt=0)


def scale(model, params, rows):
    import torch

    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(params.factor)
    return model
'''
RECIPE = """
name: mine
description: A technique of another distribution.
techniques:
  - technique: scale
    factor: 0.25
"""
APPLY = """
import sys
from pathlib import Path
from edgewright import optimize
from edgewright.artifact import Dataset, Format
from edgewright.recipe import load_recipe
from edgewright.store import Store
folder = Path(sys.argv[1])
(technique,) = load_recipe(str(folder / "mine.yaml")).techniques
store = Store(folder / "store")
graph = store.put(folder / "network.safetensors", Format.TORCH_GRAPH)
rows = Dataset(artifact=store.put(folder / "data.npz", Format.DATASET), calibration_rows=1, validation_rows=1,
               test_rows=1)
print(technique.title, technique.code() != "", optimize.apply(graph, technique, rows, store).path, sep="|")
"""


@pytest.fixture
def registered(tmp_path: Path) -> Path:
    """A folder with the distribution, as `pip install --target` leaves it."""
    (tmp_path / "toy_scale.py").write_text(TECHNIQUE)
    information = tmp_path / "toy_scale-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-scale\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[edgewright.techniques]\nscale = toy_scale:Scale\n")
    (tmp_path / "mine.yaml").write_text(RECIPE)
    return tmp_path


def run(folder: Path, code: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(Path.cwd())])}
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)


def test_a_technique_of_one_file_is_named_by_a_recipe_and_carried_out(registered: Path, tmp_path: Path) -> None:
    network = torch.fx.symbolic_trace(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()))
    torch_graph.save(network, tmp_path / "network.safetensors")
    (tmp_path / "data.npz").write_bytes(b"")
    done = run(registered, APPLY)
    assert done.returncode == 0, done.stderr
    title, has_code, path = done.stdout.strip().split("|")
    assert (title, has_code) == ("Scaling weights", "True")
    made = dict(torch_graph.load(Path(path)).named_parameters())
    for name, weight in network.named_parameters():
        torch.testing.assert_close(made[name], weight * 0.25)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("raise RuntimeError('broken')", "cannot be imported: RuntimeError: broken"),
        ("Scale = 3", "is not a class of edgewright.recipe.Technique"),
    ],
)
def test_a_technique_that_is_none_is_named_in_one_line(registered: Path, content: str, said: str) -> None:
    (registered / "toy_scale.py").write_text(content)
    done = run(registered, "import edgewright.recipe")
    assert "technique 'scale' (toy_scale:Scale)" in done.stderr
    assert said in done.stderr.strip().splitlines()[-1]


def test_an_unknown_parameter_is_refused_by_its_name(registered: Path) -> None:
    (registered / "mine.yaml").write_text(RECIPE.replace("factor", "faktor"))
    done = run(
        registered, "import sys; from edgewright.recipe import load_recipe; load_recipe(sys.argv[1] + '/mine.yaml')"
    )
    assert "faktor" in done.stderr.strip().splitlines()[-1]
