"""A technique of another distribution: one file and its entry point, and recipes name it as any other."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgewright.intake import torch_graph
from edgewright.recipe import Technique
from tests.plugin_sites import EXAMPLES, installed

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ROOT = Path(__file__).parents[2]
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
    """A folder with the example's distribution, as `pip install --target` leaves it, and its recipe."""
    (tmp_path / "mine.yaml").write_text((EXAMPLES / "technique_plugin" / "short.yaml").read_text())
    return installed("technique_plugin", tmp_path)


def run(folder: Path, code: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)


def test_a_technique_of_one_file_is_named_by_a_recipe_and_applied(registered: Path, tmp_path: Path) -> None:
    assert len(list((EXAMPLES / "technique_plugin").glob("*.py"))) == 1
    network = torch.fx.symbolic_trace(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()))
    torch_graph.save(network, tmp_path / "network.safetensors")
    (tmp_path / "data.npz").write_bytes(b"")
    done = run(registered, APPLY)
    assert done.returncode == 0, done.stderr
    title, has_code, path = done.stdout.strip().split("|")
    assert (title, has_code) == ("Shortening mantissas", "True")
    changed = dict(torch_graph.load(Path(path)).named_parameters())
    for name, weight in network.named_parameters():
        # Of 23 bits 7 are left: float32 seen as an integer ends in 16 zeros, at half a step from what it was.
        assert not (changed[name].detach().view(torch.int32) & 0xFFFF).any()
        assert not torch.equal(changed[name], weight)
        torch.testing.assert_close(changed[name], weight, rtol=2.0**-8, atol=0)


def files_that_name(technique: type[Technique]) -> set[str]:
    """Modules of the project that read a technique's class, or hold its name as a text."""
    name = technique.model_fields["technique"].default
    return {
        path.relative_to(ROOT).as_posix()
        for folder in ("edgewright", "edgewright_runtime", "flows", "tasks")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Name) and node.id == technique.__name__)
        or (isinstance(node, ast.Constant) and node.value == name)
    }


# Others read these by name, each for a reason: exporters quantize, and take the scales that `train_int8` has learnt; a
# task times what channels are pruned for, and a student may be a network with pruned channels.
KNOWN_ELSEWHERE = {"quantize", "train_int8", "prune_channels"}


@pytest.mark.parametrize("name", sorted(set(Technique.known) - KNOWN_ELSEWHERE))
def test_a_technique_is_its_parameters_its_function_its_page_and_its_test(name: str) -> None:
    """Adding one is four edits; whatever else reads it by name would be a fifth."""
    technique = Technique.known[name]
    function = f"{technique.function.partition(':')[0].replace('.', '/')}.py"
    assert files_that_name(technique) == {"edgewright/recipe.py", function}
    assert f"## {name}\n" in (ROOT / "docs" / "reference" / "recipes.md").read_text()
    assert (ROOT / "tests" / "optimize" / f"test_{name}.py").is_file()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("raise RuntimeError('broken')", "cannot be imported: RuntimeError: broken"),
        ("ShortMantissas = 3", "is not a class of edgewright.recipe.Technique"),
    ],
)
def test_what_is_not_a_technique_is_named_in_one_line(registered: Path, content: str, message: str) -> None:
    (registered / "short_mantissas.py").write_text(content)
    done = run(registered, "import edgewright.recipe")
    assert "technique 'short_mantissas' (short_mantissas:ShortMantissas)" in done.stderr
    assert message in done.stderr.strip().splitlines()[-1]


def test_an_unknown_parameter_is_refused_by_its_name(registered: Path) -> None:
    recipe = registered / "mine.yaml"
    recipe.write_text(recipe.read_text().replace("bits", "bitz"))
    done = run(
        registered, "import sys; from edgewright.recipe import load_recipe; load_recipe(sys.argv[1] + '/mine.yaml')"
    )
    assert "bitz" in done.stderr.strip().splitlines()[-1]
