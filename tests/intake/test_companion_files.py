"""What belongs to a model beside its file decides whether a kept result still stands."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from edgewright.data import DataSpec
from edgewright.errors import InputError
from edgewright.intake import companion_files
from edgewright.profile import load_device
from edgewright.recipe import Recipe
from tasks.caching import content_key

CODE = "from torch import nn\n\n\ndef network():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"


@pytest.fixture
def factory(tmp_path: Path) -> Path:
    (tmp_path / "companion_network.py").write_text(CODE)
    _weights(tmp_path, 0)
    path = tmp_path / "model.yaml"
    path.write_text("factory: companion_network:network\nweights: w.safetensors\ninputs: {image: [1, 8, 8]}\n")
    return path


def _weights(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    save_file({"1.weight": torch.rand(10, 64), "1.bias": torch.rand(10)}, folder / "w.safetensors")


@pytest.fixture
def external(tmp_path: Path) -> Callable[[float], Path]:
    def save(value: float) -> Path:
        weight = numpy_helper.from_array(np.full((8, 8), value, np.float32), "w")
        x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, 8]) for n in "xy")
        graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight])
        (tmp_path / "m.bin").unlink(missing_ok=True)  # onnx appends
        options = {"save_as_external_data": True, "location": "m.bin", "size_threshold": 0}
        onnx.save_model(helper.make_model(graph), tmp_path / "m.onnx", **options)
        return tmp_path / "m.onnx"

    return save


def _key(model: Path) -> str:
    files, code = companion_files(model)
    return content_key("take_in", "1", {"model": model, "files": files, "code": code})


def test_weights_and_code_of_a_factory_belong_to_it(factory: Path) -> None:
    before = _key(factory)
    assert _key(factory) == before
    _weights(factory.parent, 1)
    other_weights = _key(factory)
    (factory.parent / "companion_network.py").write_text(CODE.replace("64, 10", "64, 10, bias=False"))
    assert len({before, other_weights, _key(factory)}) == 3


def test_external_data_belongs_to_an_onnx_model(external: Callable[[float], Path]) -> None:
    model = external(1.0)
    assert companion_files(model) == ((model.parent / "m.bin",), "")
    content, before = model.read_bytes(), _key(model)
    assert external(2.0).read_bytes() == content, "the model's own file says nothing of the change"
    assert _key(model) != before


def test_external_data_that_is_missing_is_named(external: Callable[[float], Path]) -> None:
    model = external(1.0)
    (model.parent / "m.bin").unlink()
    with pytest.raises(InputError, match=r"external data 'm\.bin' is missing"):
        companion_files(model)


def test_a_model_in_one_file_has_nothing_beside_it(tmp_path: Path, external: Callable[[float], Path]) -> None:
    onnx.save_model(onnx.load(external(1.0)), tmp_path / "whole.onnx")
    assert companion_files(tmp_path / "whole.onnx") == ((), "")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_changed_weights_are_taken_in_anew(factory: Path, edgewright_home: Path, digits_npz: Path) -> None:
    from flows.optimize import optimize

    def taken_in() -> str:
        recipe = Recipe(name="none", description="as it is")
        made = optimize(factory, DataSpec(path=digits_npz), load_device("generic_edge_device"), recipe)
        return made.model.graph.digest

    first = taken_in()
    assert taken_in() == first
    _weights(factory.parent, 1)
    assert taken_in() != first
