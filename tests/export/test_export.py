"""Each platform's file, run by that platform's own runtime (Core ML: by the evaluator), against the source model."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from edgewright.artifact import Exported, Format, ImportedModel, ModelTask, Precision
from edgewright.errors import UnsupportedError
from edgewright.export import export
from edgewright.export.mil_evaluator import evaluate
from edgewright.profile import Platform
from edgewright.store import Store
from edgewright_runtime.backends import load, run_rows
from edgewright_runtime.bundle.processor import exact_kernels

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torchvision.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
]

TOLERANCE = {Precision.FLOAT32: 1e-6, Precision.FLOAT16: 2e-3, Precision.INT8: 2e-2}
SUFFIX = {Platform.IOS: ".mlpackage", Platform.ANDROID: ".tflite", Platform.EDGE_DEVICE: ".onnx"}


def answers(exported: Exported, inputs: dict[str, np.ndarray], output: str) -> np.ndarray:
    path = exported.artifact.path
    match exported.artifact.format:
        case Format.TFLITE:
            run = Interpreter(str(path)).get_signature_runner()
            rows = range(len(next(iter(inputs.values()))))
            return np.concatenate([run(**{k: v[i : i + 1] for k, v in inputs.items()})[output] for i in rows])
        case Format.MLPACKAGE:
            return evaluate(path, inputs)[output]
        case _:
            return run_rows(load(path, "onnx", kernels=exact_kernels(exported.made_for)), inputs)[output]


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("platform", Platform)
def test_export_agrees_with_its_source(digits, platform, precision):
    exported = digits.exported(platform, precision)
    found = answers(exported, {"image": digits.rows}, "probabilities")
    assert exported.artifact.path.suffix == SUFFIX[platform]
    assert np.abs(found - digits.answers).max() < TOLERANCE[precision]


@pytest.mark.parametrize("platform", Platform)
def test_export_keeps_names_and_real_tensors_at_every_precision(digits, platform):
    for precision in TOLERANCE:
        exported = digits.exported(platform, precision)
        assert [(t.name, t.dtype) for t in exported.inputs] == [("image", "float32")]
        assert [(t.name, t.dtype) for t in exported.outputs] == [("probabilities", "float32")]
        assert exported.inputs[0].shape[1:] == (1, 8, 8)


@pytest.mark.parametrize("platform", Platform)
def test_export_to_fewer_bits_is_smaller(digits, platform):
    float32 = digits.exported(platform, Precision.FLOAT32).artifact.size_bytes
    assert digits.exported(platform, Precision.FLOAT16).artifact.size_bytes < float32
    assert digits.exported(platform, Precision.INT8).artifact.size_bytes < float32


@pytest.mark.parametrize("platform", Platform)
def test_export_gives_the_same_bytes_in_another_store(digits, platform, tmp_path):
    store = Store(tmp_path)
    again = export(digits.model, digits.dataset, platform, Precision.INT8, store)
    assert again.artifact.digest == digits.exported(platform, Precision.INT8).artifact.digest
    assert again.artifact.path != digits.exported(platform, Precision.INT8).artifact.path


def test_export_refuses_fewer_bits_for_thresholds(digits):
    trees = digits.model.model_copy(update={"float32_only": True})
    for precision in (Precision.FLOAT16, Precision.INT8):
        with pytest.raises(UnsupportedError, match="thresholds"):
            export(trees, digits.dataset, Platform.ANDROID, precision, digits.store)


def test_export_without_a_graph_names_what_still_works(digits):
    refused = digits.model.model_copy(update={"graph": None, "graph_refusal": "operator LSTM"})
    with pytest.raises(UnsupportedError, match="operator LSTM; edge_device still works"):
        export(refused, digits.dataset, Platform.IOS, Precision.FLOAT32, digits.store)
    exported = export(refused, digits.dataset, Platform.EDGE_DEVICE, Precision.INT8, digits.store)
    found = answers(exported, {"image": digits.rows}, "probabilities")
    assert np.abs(found - digits.answers).max() < TOLERANCE[Precision.INT8]


def test_int8_activations_suit_the_processor(digits):
    import onnx

    signs = {}
    for instruction_set in ("arm64", "x86_64"):
        exported = export(
            digits.model, digits.dataset, Platform.EDGE_DEVICE, Precision.INT8, digits.store,
            instruction_set=instruction_set,
        )  # fmt: skip
        graph = onnx.load(exported.artifact.path).graph
        zero_points = {n.input[2] for n in graph.node if n.op_type == "QuantizeLinear"}
        signs[instruction_set] = {t.data_type for t in graph.initializer if t.name in zero_points}
    assert signs == {"arm64": {onnx.TensorProto.INT8}, "x86_64": {onnx.TensorProto.UINT8}}


def test_no_path_of_this_machine_stands_in_a_file(digits):
    for platform in Platform:
        artifact = digits.exported(platform, Precision.INT8).artifact
        files = [p for p in artifact.path.rglob("*") if p.is_file()] if artifact.path.is_dir() else [artifact.path]
        content = b"".join(p.read_bytes() for p in files)
        assert str(digits.store.root).encode() not in content
        assert str(Path(__file__).parents[2]).encode() not in content


def test_a_converted_file_that_was_damaged_is_converted_again(digits, tmp_path):
    store = Store(tmp_path)
    first = export(digits.model, digits.dataset, Platform.EDGE_DEVICE, Precision.FLOAT32, store)
    whole = first.artifact.path.read_bytes()
    first.artifact.path.write_bytes(whole[:-10])
    shutil.rmtree(first.artifact.path.parent)
    again = export(digits.model, digits.dataset, Platform.EDGE_DEVICE, Precision.FLOAT32, store)
    assert again.artifact.path.read_bytes() == whole


def test_calibration_rows_are_required_for_int8(digits, tmp_path):
    path = tmp_path / "none.npz"
    np.savez(path, **{"test.x.image": digits.rows})
    empty = digits.dataset.model_copy(update={"artifact": digits.store.put(path, Format.DATASET)})
    with pytest.raises(UnsupportedError, match="no calibration rows for input 'image'"):
        export(digits.model, empty, Platform.ANDROID, Precision.INT8, digits.store)


@pytest.fixture(scope="module")
def trees(tmp_path_factory) -> tuple[ImportedModel, Store, np.ndarray, np.ndarray]:
    """Gradient boosting behind an imputer, on rows with missing numbers, as scikit-learn answers them."""
    import onnx
    from skl2onnx import to_onnx
    from sklearn.ensemble import GradientBoostingClassifier

    from edgewright.intake import torch_graph
    from edgewright.intake.onnx_graph import import_onnx
    from edgewright_runtime.bundle.manifest import TensorSpec

    folder = tmp_path_factory.mktemp("trees")
    store, random = Store(folder / "store"), np.random.default_rng(0)
    rows = random.normal(size=(300, 6)).astype(np.float32)
    truth = (rows[:, 0] + rows[:, 1] * rows[:, 2] > 0).astype(int)
    source = GradientBoostingClassifier(n_estimators=20, random_state=0).fit(rows, truth)
    proto = to_onnx(source, rows[:1], options={"zipmap": False}, target_opset=17)
    onnx.save(proto, folder / "trees.onnx")
    saved = store.put(folder / "trees.onnx", Format.ONNX)
    torch_graph.save(import_onnx(proto), folder / "trees.graph")
    model = ImportedModel(
        name="trees",
        source=saved,
        onnx=saved,
        graph=store.put(folder / "trees.graph", Format.TORCH_GRAPH, parent=saved.digest),
        inputs=(TensorSpec("X", (-1, 6), "float32"),),
        outputs=(TensorSpec("label", (-1,), "int64"), TensorSpec("probabilities", (-1, 2), "float32")),
        task=ModelTask.CLASSIFICATION,
        float32_only=True,
    )
    return model, store, rows, source.predict_proba(rows)


@pytest.mark.parametrize("platform", Platform)
def test_trees_decide_alike_on_every_platform(digits, trees, platform):
    model, store, rows, expected = trees
    exported = export(model, digits.dataset, platform, Precision.FLOAT32, store)
    assert [t.name for t in exported.outputs] == ["label", "probabilities"]
    assert np.abs(answers(exported, {"X": rows}, "probabilities") - expected).max() < 1e-6


@pytest.fixture(scope="module")
def imputing(tmp_path_factory) -> tuple[ImportedModel, Store, np.ndarray, np.ndarray]:
    """A missing number is NaN; the graph replaces it and compares the rest."""
    import torch
    from torch import fx, nn

    from edgewright.intake import torch_graph
    from edgewright_runtime.bundle.manifest import TensorSpec

    class Imputing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("median", torch.tensor([1.0, -2.0, 3.0]))
            self.linear = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(torch.where(torch.isnan(x), self.median, x))

    folder = tmp_path_factory.mktemp("imputing")
    store = Store(folder / "store")
    torch.manual_seed(1)
    source = Imputing().eval()
    torch_graph.save(fx.symbolic_trace(source), folder / "imputing.graph")
    graph = store.put(folder / "imputing.graph", Format.TORCH_GRAPH, parent="a graph of its own")
    rows = np.array([[1, 2, 3], [np.nan, 2, 3], [1, np.nan, np.nan], [np.nan] * 3, [0, -1, np.inf]], np.float32)
    with torch.no_grad():
        expected = source(torch.from_numpy(rows)).numpy()
    model = ImportedModel(
        name="imputing",
        source=graph,
        onnx=graph,
        graph=graph,
        inputs=(TensorSpec("x", (-1, 3), "float32"),),
        outputs=(TensorSpec("y", (-1, 2), "float32"),),
        task=ModelTask.REGRESSION,
        float32_only=True,
    )
    return model, store, rows, expected


@pytest.mark.parametrize("platform", Platform)
def test_missing_numbers_are_handled_alike(digits, imputing, platform):
    model, store, rows, expected = imputing
    exported = export(model, digits.dataset, platform, Precision.FLOAT32, store)
    found = answers(exported, {"x": rows}, "y")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.isfinite(found[:4]).all()
    # Its parent is not the imported ONNX, so an edge device's file must come from the graph too.
    assert exported.artifact.parent == model.graph.digest


def test_a_free_axis_other_than_the_batch_is_refused(digits):
    free = dataclasses.replace(digits.model.inputs[0], shape=(-1, 1, -1, -1))
    model = digits.model.model_copy(update={"inputs": (free,)})
    with pytest.raises(UnsupportedError, match="--shape image="):
        export(model, digits.dataset, Platform.ANDROID, Precision.FLOAT32, digits.store)
