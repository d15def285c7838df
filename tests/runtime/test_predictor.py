import json
import math
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgewright.artifact import Format
from edgewright.package import Bundle
from edgewright_runtime.__main__ import _rows
from edgewright_runtime.bundle.manifest import Manifest, Preprocessing, Scores, TensorSpec
from edgewright_runtime.errors import BackendUnavailableError, EdgeRuntimeError, InputRejectedError, IntegrityError
from edgewright_runtime.predict.encoding import dequantize, encode, quantize
from edgewright_runtime.predict.predictor import Predictor, interpreted, probabilities
from tests.bundles import COLUMNS, LABELS, onnx_file, softmax, table_parts

ROW = {"tenure": 1.5, "charges": "-0.25", "contract": "One year", "customerID": "7590-VHVEG"}
FEATURES = (TensorSpec("x", (-1, 3), "float32"),)
TABLE = Preprocessing(columns=COLUMNS)


def test_rows_are_encoded_by_vocabulary_and_answered_with_labels(table_bundle: Bundle) -> None:
    predictor = Predictor(table_bundle.artifact.path)

    answer = predictor.predict([ROW, {**ROW, "contract": "Two years"}])

    encoded = np.array([[1.5, -0.25, 1], [1.5, -0.25, 2]], np.float32)
    expected = predictor.backend.run({"x": encoded})["scores"]
    np.testing.assert_array_equal(answer.scores, expected)
    assert answer.labels == tuple(LABELS[i] for i in expected.argmax(axis=1))


def test_unseen_category_and_missing_number_are_coded_as_the_source_does() -> None:
    encoded = encode({**ROW, "contract": "never seen", "charges": " "}, FEATURES, TABLE)["x"]

    assert encoded[0, 2] == -1
    assert math.isnan(encoded[0, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tenure": None}, "'tenure' is empty"),
        ({"tenure": "many"}, "needs a number, found 'many'"),
        ({"tenure": math.inf}, "finite"),
        ({"tenure": 1e39}, "finite in float32"),
        ({"tenure": math.nan}, "'tenure' is empty"),
        ({"contract": None}, "'contract' is empty"),
    ],
)
def test_cell_that_does_not_fit_is_rejected_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputRejectedError, match=message):
        encode({**ROW, **change}, FEATURES, TABLE)


def test_missing_column_is_named_with_what_is_needed() -> None:
    row = {key: value for key, value in ROW.items() if key != "tenure"}

    with pytest.raises(InputRejectedError, match=r"'tenure' is missing; needed: tenure, charges, contract"):
        encode(row, FEATURES, TABLE)


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (1, 1, 8, 8), (1, 64)])
def test_an_image_is_scaled_and_shaped(shape: tuple[int, ...]) -> None:
    spec = TensorSpec("x", (1, 1, 8, 8), "float32")
    raw = np.arange(64, dtype=np.uint8).reshape(shape)

    encoded = encode(raw, (spec,), Preprocessing(scale=0.5, mean=2.0))["x"]

    assert encoded.shape == (1, 1, 8, 8)
    np.testing.assert_array_equal(encoded.reshape(-1), (np.arange(64) - 2) * np.float32(0.5))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (np.full((1, 8, 8), np.nan), "NaN"),
        (np.zeros((3, 8, 9)), "shape"),
        (np.array(["a"] * 64), "numbers"),
        ({"other": np.zeros((1, 8, 8))}, "inputs are"),
    ],
)
def test_array_that_does_not_fit_is_rejected(raw: Any, message: str) -> None:
    with pytest.raises(InputRejectedError, match=message):
        encode(raw, (TensorSpec("x", (1, 1, 8, 8), "float32"),), Preprocessing())


@pytest.mark.parametrize("raw", [5, True, None, 1.5, [5], "text", [[]]], ids=repr)
def test_what_is_no_row_is_rejected(raw: Any) -> None:
    with pytest.raises(InputRejectedError, match="row"):
        encode(raw, FEATURES, TABLE)


@pytest.mark.parametrize("raw", [[[1.0], [1.0, 2.0]], [1.0, [2.0]], {}, None, "text"], ids=repr)
def test_what_is_no_array_is_rejected(raw: Any) -> None:
    with pytest.raises(InputRejectedError, match="input"):
        encode(raw, (TensorSpec("x", (-1, 2), "float32"),), Preprocessing())


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("float32", 1e39, "float32"),
        ("float16", 1e5, "float16"),
        ("uint8", 300, "0 to 255"),
        ("uint8", -1, "0 to 255"),
        ("int32", 1 << 40, "2147483647"),
        ("bool", 2, "0 to 1"),
    ],
)
def test_value_beyond_what_the_tensor_holds_is_rejected_and_never_wrapped(
    dtype: str, value: float, message: str
) -> None:
    with pytest.raises(InputRejectedError, match=message):
        encode([[value]], (TensorSpec("x", (-1, 1), dtype),), Preprocessing())
    assert encode([[1]], (TensorSpec("x", (-1, 1), dtype),), Preprocessing())["x"].tolist() == [[1]]


def test_double_input_keeps_its_digits() -> None:
    encoded = encode(np.array([[1 / 3]]), (TensorSpec("x", (-1, 1), "float64"),), Preprocessing())["x"]

    assert encoded.tolist() == [[1 / 3]]


def test_channels_last_is_not_mistaken_for_channels_first() -> None:
    spec = TensorSpec("x", (1, 3, 8, 8), "float32")

    with pytest.raises(InputRejectedError, match="shape"):
        encode(np.zeros((8, 8, 3)), (spec,), Preprocessing())


def test_quantized_input_is_rounded_and_saturated() -> None:
    spec = TensorSpec("x", (1, 4), "int8", scale=0.5, zero_point=10)

    stored = quantize(np.array([[0.0, 1.2, 1000.0, -1000.0]]), spec)

    assert stored.dtype == np.int8
    assert stored.tolist() == [[10, 12, 127, -128]]
    assert dequantize(stored, spec).tolist() == [[0.0, 1.0, 58.5, -69.0]]


@pytest.mark.parametrize(
    ("kind", "stored", "scores"),
    [
        ("logits", [[0.0, math.log(3), -50.0]], [[0.25, 0.75, 0.0]]),
        ("probabilities", [[0.2, 0.5, 0.3]], [[0.2, 0.5, 0.3]]),
        ("logits", [[math.log(3)]], [[0.25, 0.75]]),
        ("probabilities", [[0.75]], [[0.25, 0.75]]),
        ("classes", [1], [[0, 1, 0]]),
        ("logits", [[[0.0, math.log(3), -50.0]]], [[0.25, 0.75, 0.0]]),
        ("probabilities", [[[[0.2]], [[0.5]], [[0.3]]]], [[0.2, 0.5, 0.3]]),
        ("probabilities", [[[0.75]]], [[0.25, 0.75]]),
    ],
)
def test_outputs_mean_what_the_manifest_says(
    table_bundle: Bundle, kind: str, stored: list[Any], scores: list[list[float]]
) -> None:
    manifest = Manifest.from_json((table_bundle.artifact.path / "manifest.json").read_bytes())

    answer = interpreted({"scores": np.array(stored)}, replace(manifest, scores=Scores("scores", kind)))

    np.testing.assert_allclose(answer.scores, scores, atol=1e-9)
    assert answer.labels == ("middle",)


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_a_model_that_answers_nan_names_no_class(table_bundle: Bundle, kind: str) -> None:
    """The largest of three that are none would be the first."""
    manifest = Manifest.from_json((table_bundle.artifact.path / "manifest.json").read_bytes())

    with pytest.raises(EdgeRuntimeError, match="answers NaN to 1 of 2 rows"):
        interpreted(
            {"scores": np.array([[0.2, 0.5, 0.3], [np.nan] * 3])}, replace(manifest, scores=Scores("scores", kind))
        )


def test_regression_gives_values(table_bundle: Bundle) -> None:
    manifest = Manifest.from_json((table_bundle.artifact.path / "manifest.json").read_bytes())

    answer = interpreted(
        {"scores": np.array([[2.5], [3.5]])}, replace(manifest, task="regression", scores=Scores("scores", "values"))
    )

    assert answer.scores.tolist() == [2.5, 3.5]
    assert answer.labels == ()


@pytest.fixture
def copy(tmp_path: Path, table_bundle: Bundle) -> Path:
    shutil.copytree(table_bundle.artifact.path, tmp_path / "bundle")
    return tmp_path / "bundle"


def test_changed_model_is_not_opened(copy: Path) -> None:
    content = bytearray((copy / "churn.onnx").read_bytes())
    content[-1] ^= 1
    (copy / "churn.onnx").write_bytes(content)

    with pytest.raises(IntegrityError, match=r"churn\.onnx: SHA-256"):
        Predictor(copy)


@pytest.mark.parametrize("change", [b"", b"x"])
def test_file_of_another_length_is_not_opened(copy: Path, change: bytes) -> None:
    content = (copy / "churn.onnx").read_bytes()
    (copy / "churn.onnx").write_bytes(content + change if change else content[:-1])

    with pytest.raises(IntegrityError, match="the manifest says"):
        Predictor(copy)


def test_link_in_place_of_a_file_is_not_followed(copy: Path, tmp_path: Path) -> None:
    (copy / "churn.onnx").rename(tmp_path / "elsewhere")
    (copy / "churn.onnx").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(IntegrityError, match="not a plain file"):
        Predictor(copy)


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        (
            "runtime",
            {
                "name": "onnxruntime",
                "minimum_version": "99.0",
                "accelerator": None,
                "threads": 1,
                "kernels": {"xnnpack": None, "kleidiai": None, "bfloat16": None, "int8": None},
                "processor": None,
            },
            BackendUnavailableError,
            "at least 99.0",
        ),
        (
            "inputs",
            [{"name": "x", "shape": [-1, 3], "dtype": "int8", "scale": 0.1, "zero_point": 0}],
            IntegrityError,
            "its inputs are",
        ),
    ],
)
def test_manifest_that_does_not_fit_the_model_is_refused(
    copy: Path, key: str, value: Any, error: type[Exception], message: str
) -> None:
    manifest = json.loads((copy / "manifest.json").read_bytes())
    manifest[key] = value
    (copy / "manifest.json").write_text(json.dumps(manifest))

    with pytest.raises(error, match=message):
        Predictor(copy)


def test_model_with_int8_inputs_takes_raw_rows(tmp_path: Path) -> None:
    parts, scale, zero = table_parts(tmp_path), np.float32(0.02), np.int8(-3)
    weights = onnx_file(tmp_path / "float.onnx", 3)
    model = onnx.load(tmp_path / "float.onnx")
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["x", "scale", "zero"], ["real"]))
    model.graph.node[1].input[0] = "real"
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT8
    model.graph.initializer.extend([numpy_helper.from_array(scale, "scale"), numpy_helper.from_array(zero, "zero")])
    onnx.save(model, tmp_path / "int8.onnx")
    spec = TensorSpec("x", (-1, 3), "int8", float(scale), int(zero))
    exported = parts.exported.model_copy(
        update={"artifact": parts.store.put(tmp_path / "int8.onnx", Format.ONNX), "inputs": (spec,)}
    )

    predictor = Predictor(replace(parts, exported=exported).build().artifact.path)
    answer = predictor.predict([{**ROW, "charges": -0.245}, {**ROW, "charges": -0.245, "tenure": 100.0}])

    stored = np.clip(np.rint(np.array([[1.5, -0.245, 1], [100, -0.245, 1]]) / scale) + zero, -128, 127)
    assert stored[1, 0] == 127, "beyond what int8 holds"
    np.testing.assert_allclose(answer.scores, softmax((stored - zero) * scale @ weights), atol=1e-6)


def test_rows_with_axes_of_one_stay_rows() -> None:
    assert probabilities(np.full((2, 1, 10), 0.1), "probabilities").shape == (2, 10)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ([3], "names classes 3 to 3, there are 0 to 2"),
        ([-1], "names classes -1 to -1"),
        ([math.nan], "NaN or infinity"),
        ([[0, 1]], "names 2 classes a row"),
    ],
    ids=str,
)
def test_class_that_is_none_of_the_models_is_no_answer(table_bundle: Bundle, named: list[Any], message: str) -> None:
    manifest = Manifest.from_json((table_bundle.artifact.path / "manifest.json").read_bytes())

    with pytest.raises(EdgeRuntimeError, match=message):
        interpreted({"scores": np.array(named)}, replace(manifest, scores=Scores("scores", "classes")))


def test_class_that_no_model_has_is_no_answer(table_bundle: Bundle) -> None:
    manifest = Manifest.from_json((table_bundle.artifact.path / "manifest.json").read_bytes())
    unnamed = replace(manifest, labels=(), scores=Scores("scores", "classes"))
    for named, said in ((1e13, "names classes 1e\\+13"), (math.inf, "NaN or infinity")):
        with pytest.raises(EdgeRuntimeError, match=said):
            interpreted({"scores": np.array([named])}, unnamed)


def test_class_among_many_takes_no_table_of_all_pairs(table_bundle: Bundle) -> None:
    content = (table_bundle.artifact.path / "manifest.json").read_bytes()
    manifest = replace(Manifest.from_json(content), scores=Scores("scores", "classes"), labels=())
    tracemalloc.start()
    try:
        answer = interpreted({"scores": np.array([20_000])}, manifest)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert answer.indices.tolist() == [20_000]
    assert peak < 20e6, "a square of 20,000 classes is 1.6 GB"


def test_int32_is_saturated_at_its_own_limits() -> None:
    spec = TensorSpec("x", (1, 3), "int32", scale=1e-6, zero_point=0)

    stored = quantize(np.array([[1e6, -1e6, 0.5]], np.float32), spec)

    assert stored.tolist() == [[2**31 - 1, -(2**31), 500_000]]


def test_token_ids_of_a_json_file_stay_whole(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(f"[[1, {2**40 + 1}]]")

    encoded = encode(_rows(str(tmp_path / "rows.json")), (TensorSpec("ids", (-1, 2), "int64"),), Preprocessing())

    assert encoded["ids"].tolist() == [[1, 2**40 + 1]]
