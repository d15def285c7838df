"""Every shipped recipe on the demo's network, from intake to the exported file."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from edgewright.child import deferred, run_in_child
from edgewright.data import load_data_spec
from edgewright.export.stored import describe
from edgewright.pipeline.result import Optimization
from edgewright.profile import load_device, shipped_names
from edgewright.recipe import load_recipe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEWRIGHT_HOME", str(folder / "home"))
        run_in_child(
            partial(deferred("edgewright.demo:make_digits_cnn"), folder), what="training the demo", writes=[folder]
        )
        yield folder


@pytest.mark.parametrize("name", shipped_names("recipe"))
def test_a_shipped_recipe_runs_end_to_end(demo, name):
    from flows.optimize import optimize

    recipe = load_recipe(name)
    data = load_data_spec(demo / "digits.npz", None)
    made = optimize(demo / "digits_cnn.pt2", data, load_device("generic_edge_device"), recipe)
    assert isinstance(made, Optimization)
    assert [step.technique for step in made.steps] == [t.technique for t in recipe.techniques]
    # Each step says what it gained, or why it was left out; none is passed over in silence.
    assert all(step.reason for step in made.steps)
    assert all(step.kept for step, t in zip(made.steps, recipe.techniques, strict=True) if t.keep == "always")
    # In this small network no layer is of low rank, and the exporters fold BatchNorm by themselves: the steps say so.
    optional = {t.technique for t in recipe.techniques if t.keep != "always"}
    assert {step.technique for step in made.steps if not step.kept} == optional & {"decompose", "fuse"}
    stored = describe(made.candidate.artifact.path)
    assert stored.parameters > 0
    if name == "deep_compression":
        assert (stored.sparsity or 0) > 0.9
    if name in {"latency_first", "prune_channels", "distill"} and made.steps[0].kept:
        assert stored.parameters < 0.8 * describe(made.baseline.artifact.path).parameters
    if name in {"int8", "train_int8"} and made.steps[-1].kept:
        assert any("int8" in w.dtype and w.elements > np.int64(10_000) for w in stored.weights)
