"""Further forms of the files: dynamic int8, integer tensors, metadata, weights stored without loss."""

import dataclasses
import zipfile
from typing import Any

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from flatbuffers import encode, number_types
from flatbuffers.table import Table
from torch import fx, nn

from edgewright import optimize
from edgewright.artifact import Format, ImportedModel, ModelTask, Precision
from edgewright.errors import UnsupportedError
from edgewright.export import export, mlpackage, tflite
from edgewright.export.gpu import gpu_report
from edgewright.export.mil_evaluator import evaluate
from edgewright.export.stored import describe
from edgewright.intake import torch_graph
from edgewright.profile import ExportOptions, Platform
from edgewright.recipe import Cluster, Prune
from edgewright.store import Store
from edgewright_runtime.bundle.manifest import Preprocessing, TensorSpec


@pytest.mark.parametrize("platform", [Platform.ANDROID, Platform.EDGE_DEVICE])
def test_dynamic_int8_stores_dense_weights_in_8_bits_and_needs_no_calibration(digits, platform, tmp_path):
    with np.load(digits.dataset.artifact.path) as arrays:
        np.savez(tmp_path / "x.npz", **{n: arrays[n] for n in arrays.files if not n.startswith("calibration.")})
    without = digits.store.put(tmp_path / "x.npz", Format.DATASET)
    without = digits.dataset.model_copy(update={"artifact": without, "calibration_rows": 0})
    exported = export(digits.model, without, platform, Precision.DYNAMIC_INT8, digits.store)
    stored = {w.dtype: w.elements for w in describe(exported.artifact.path).weights}
    assert stored["int8"] >= 1280
    if platform is Platform.ANDROID:
        run = Interpreter(str(exported.artifact.path)).get_signature_runner()
        found = np.concatenate([run(image=digits.rows[i : i + 1])["probabilities"] for i in range(20)])
    else:
        import onnxruntime

        found = onnxruntime.InferenceSession(str(exported.artifact.path)).run(None, {"image": digits.rows[:20]})[0]
    assert np.abs(found - digits.answers[:20]).max() < 0.03


def test_dynamic_int8_on_ios_names_the_alternative(digits):
    with pytest.raises(UnsupportedError, match="use int8"):
        export(digits.model, digits.dataset, Platform.IOS, Precision.DYNAMIC_INT8, digits.store)


def test_integer_tensors_take_and_give_what_their_scales_say(digits):
    options = ExportOptions(integer_tensors=True)
    exported = export(digits.model, digits.dataset, Platform.ANDROID, Precision.INT8, digits.store, options=options)
    (image,), (scores,) = exported.inputs, exported.outputs
    assert (image.dtype, scores.dtype) == ("int8", "int8")
    run = Interpreter(str(exported.artifact.path)).get_signature_runner()
    for row, expected in zip(digits.rows[:20], digits.answers[:20], strict=True):
        steps = np.clip(np.round(row[None] / image.scale) + image.zero_point, -128, 127).astype(np.int8)
        found = scores.scale * (run(image=steps)["probabilities"].astype(np.float32) - scores.zero_point)
        assert np.abs(found - expected).max() < 0.05


def metadata_of(path) -> Table:
    model = tflite.load(path)
    entry = next(m for m in model.metadata if m.name == b"TFLITE_METADATA")
    data = bytes(model.buffers[entry.buffer].data)
    assert data[4:8] == b"M001"
    return Table(bytearray(data), encode.Get(number_types.UOffsetTFlags.packer_type, data, 0))


def field(table: Table, slot: int, kind: str) -> Any:
    """Field `slot` of a table, read by the flatbuffers library's own primitives."""
    at = table.Offset(4 + 2 * slot)
    assert at
    match kind:
        case "string":
            return table.String(at + table.Pos).decode()
        case "tables":
            first = table.Vector(at)
            return [Table(table.Bytes, table.Indirect(first + 4 * i)) for i in range(table.VectorLen(at))]
        case "floats":
            return list(table.GetVectorAsNumpy(number_types.Float32Flags, at))
        case "table":
            return Table(table.Bytes, table.Indirect(at + table.Pos))
        case _:
            return table.Get(number_types.Int8Flags, at + table.Pos)


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.INT8])
def test_metadata_holds_labels_and_normalization(digits, precision):
    model = digits.model.model_copy(update={"preprocessing": Preprocessing(scale=1 / 16, mean=2.0)})
    path = export(model, digits.dataset, Platform.ANDROID, precision, digits.store).artifact.path
    root = metadata_of(path)
    assert field(root, 0, "string") == "digits"
    subgraph = field(root, 3, "tables")[0]
    image, scores = field(subgraph, 2, "tables")[0], field(subgraph, 3, "tables")[0]
    assert (field(image, 0, "string"), field(scores, 0, "string")) == ("image", "probabilities")
    unit = field(image, 4, "tables")[0]
    assert field(unit, 0, "byte") == 1
    normalization = field(unit, 1, "table")
    assert field(normalization, 0, "floats") == [2.0]
    assert field(normalization, 1, "floats") == [16.0]
    labels = field(scores, 6, "tables")[0]
    assert field(labels, 2, "byte") == 2
    with zipfile.ZipFile(path) as archive:
        assert archive.read(field(labels, 0, "string")).decode().split() == list("0123456789")


@pytest.fixture(scope="module")
def shared_weights(tmp_path_factory) -> tuple[ImportedModel, Store, nn.Sequential]:
    """One layer of 11 shared values, and one of which three quarters are zero."""
    folder = tmp_path_factory.mktemp("shared")
    store = Store(folder / "store")
    torch.manual_seed(2)
    source = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32)).eval()
    with torch.no_grad():
        # 11 values: not a size that a look-up table has, so it is padded to 16
        source[0].weight.copy_(torch.linspace(-0.5, 0.5, 11)[torch.randint(11, (64, 64))])
        source[2].weight.mul_((torch.rand(32, 64) > 0.75).float())
    torch_graph.save(fx.symbolic_trace(source), folder / "shared.graph")
    graph = store.put(folder / "shared.graph", Format.TORCH_GRAPH, parent="its own")
    model = ImportedModel(
        name="shared",
        source=graph,
        onnx=graph,
        graph=graph,
        inputs=(TensorSpec("x", (-1, 64), "float32"),),
        outputs=(TensorSpec("y", (-1, 32), "float32"),),
        task=ModelTask.REGRESSION,
    )
    return model, store, source


def test_clusters_and_zeros_survive_in_the_core_ml_file(digits, shared_weights):
    model, store, source = shared_weights
    exported = export(model, digits.dataset, Platform.IOS, Precision.FLOAT32, store)
    operators = mlpackage.operators(exported.artifact.path)
    assert operators["constexpr_lut_to_dense"] == 1
    assert operators["constexpr_sparse_to_dense"] == 1
    rows = np.random.default_rng(1).normal(size=(10, 64)).astype(np.float32)
    with torch.no_grad():
        expected = source(torch.from_numpy(rows)).numpy()
    assert np.abs(evaluate(exported.artifact.path, {"x": rows})["y"] - expected).max() < 1e-5
    stored = describe(exported.artifact.path)
    assert stored.parameters == sum(p.numel() for p in source.parameters())
    assert {w.dtype: w.bytes for w in stored.weights}[
        "palette (float32, uint8)"
    ] == 64 * 64 // 2 + 16 * 4 + 2 * 4  # indices, palette, shape
    assert 0.2 < (stored.sparsity or 0) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("technique", "operator"),
    [
        (Cluster(clusters=16), "constexpr_lut_to_dense"),
        (Prune(sparsity=0.8, training=None), "constexpr_sparse_to_dense"),
    ],
)
def test_what_a_recipe_clusters_or_prunes_is_stored_so_for_ios(digits, technique, operator):
    graph = optimize.apply(digits.model.graph, technique, digits.dataset, digits.store)
    model = digits.model.model_copy(update={"graph": graph})
    exported = export(model, digits.dataset, Platform.IOS, Precision.FLOAT16, digits.store)
    assert mlpackage.operators(exported.artifact.path)[operator] >= 1
    float16 = digits.exported(Platform.IOS, Precision.FLOAT16).artifact
    assert exported.artifact.size_bytes < float16.size_bytes


def test_a_model_without_layers_has_no_int8(digits, shared_weights, tmp_path):
    model, store, _ = shared_weights

    class Sum(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sum(x, 1, keepdim=True)

    torch_graph.save(fx.symbolic_trace(Sum()), tmp_path / "sum.graph")
    graph = store.put(tmp_path / "sum.graph", Format.TORCH_GRAPH, parent="its own")
    spec = dataclasses.replace(model.outputs[0], shape=(-1, 1))
    summing = model.model_copy(update={"name": "sum", "graph": graph, "onnx": graph, "outputs": (spec,)})
    data = tmp_path / "data.npz"
    np.savez(data, **{"calibration.x.x": np.random.default_rng(0).random((20, 64), dtype=np.float32)})
    dataset = digits.dataset.model_copy(update={"artifact": store.put(data, Format.DATASET)})
    for platform in Platform:
        with pytest.raises(UnsupportedError, match="no benefit"):
            export(summing, dataset, platform, Precision.INT8, store)


def test_an_input_that_is_no_image_is_refused(digits, shared_weights):
    model, store, _ = shared_weights
    with pytest.raises(UnsupportedError, match="is not an image"):
        export(
            model,
            digits.dataset,
            Platform.IOS,
            Precision.FLOAT32,
            store,
            options=ExportOptions(image_inputs=True),
        )


def test_ort_format_runs_and_names_its_operators(digits):
    import onnxruntime

    options = ExportOptions(ort_format=True)
    exported = export(
        digits.model, digits.dataset, Platform.EDGE_DEVICE, Precision.FLOAT32, digits.store, options=options
    )
    assert exported.artifact.path.suffix == ".ort"
    assert exported.artifact.path.read_bytes()[4:8] == b"ORTM"
    assert any("reduced build" in note and "Conv" in note and "Gemm" in note for note in exported.notes)
    domain, version, operators = exported.required_operators.splitlines()[0].split(";")
    assert domain == "ai.onnx"
    assert version.isdigit()
    assert operators
    found = onnxruntime.InferenceSession(str(exported.artifact.path)).run(None, {"image": digits.rows})[0]
    assert np.abs(found - digits.answers).max() < 1e-6


def test_gpu_report_names_what_falls_back(digits, tmp_path):
    exported = digits.exported(Platform.ANDROID, Precision.FLOAT32)
    assert exported.notes == ("GPU delegate: all 7 operators can run there",)
    model = tflite.load(exported.artifact.path)
    for code in model.operatorCodes:
        if code.builtinCode == schema.BuiltinOperator.SOFTMAX:
            code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.TOPK_V2
    next(t for t in model.subgraphs[0].tensors if t.name == b"image").type = schema.TensorType.INT64
    tflite.save(model, tmp_path / "odd.tflite")
    found = gpu_report(tmp_path / "odd.tflite")
    assert found == ["GPU delegate: 2 of 7 operators fall back to the CPU: RESHAPE on int64, TOPK_V2"]
