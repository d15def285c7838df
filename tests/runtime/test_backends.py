import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgewright import profile
from edgewright.package import Bundle
from edgewright_runtime.backends import installed_runtimes, load, run_rows
from edgewright_runtime.backends.litert import _by_number, _spec
from edgewright_runtime.backends.onnx import _providers
from edgewright_runtime.bundle.integer_range import first_outside
from edgewright_runtime.bundle.manifest import Kernels, TensorSpec
from edgewright_runtime.errors import BackendUnavailableError, InputRejectedError, IntegrityError
from edgewright_runtime.predict.predictor import Predictor
from tests.bundles import onnx_file, softmax, table_parts


def test_onnx_runs_a_batch_at_once(tmp_path: Path) -> None:
    weights = onnx_file(tmp_path / "m.onnx", 4)
    backend = load(tmp_path / "m.onnx", "onnx")
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)

    scores = run_rows(backend, {"x": x})["scores"]

    assert backend.inputs[0].shape == (-1, 4)
    np.testing.assert_allclose(scores, softmax(x @ weights), atol=1e-6)


def test_names_given_are_used_instead_of_the_files_own(tmp_path: Path) -> None:
    onnx_file(tmp_path / "m.onnx", 4)

    backend = load(tmp_path / "m.onnx", "onnx", input_names=["features"], output_names=["answer"])

    assert list(backend.run({"features": np.zeros((1, 4), np.float32)})) == ["answer"]
    with pytest.raises(IntegrityError, match="has 1 inputs"):
        load(tmp_path / "m.onnx", "onnx", input_names=["a", "b"])


def test_number_that_only_the_model_knows_to_be_wrong_is_the_callers(tmp_path: Path) -> None:
    """An index beyond an embedding's rows fits every shape and type, and ends in ONNX Runtime's own exception."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["w", "x"], ["y"])],
        "embedding",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(np.ones((3, 2), np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    backend = load(tmp_path / "m.onnx", "onnx")

    assert backend.run({"x": np.array([2])})["y"].tolist() == [[1, 1]]
    with pytest.raises(InputRejectedError, match="out of data bounds, idx=7"):
        backend.run({"x": np.array([7])})


def test_whole_numbers_are_taken_in_any_width_that_holds_them(tmp_path: Path) -> None:
    """Token ids are int64 everywhere but in the files of converters that narrow them."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "ids",
        [helper.make_tensor_value_info("x", TensorProto.INT32, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, ["N"])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    backend = load(tmp_path / "m.onnx", "onnx")

    assert backend.run({"x": np.array([2, 3], np.int64)})["y"].tolist() == [4, 6]
    with pytest.raises(
        InputRejectedError, match=r"'x': row 1: 4294967296 is outside int32, which holds -2147483648 to"
    ):
        backend.run({"x": np.array([2, 2**32], np.int64)})
    with pytest.raises(InputRejectedError, match="given was float64"):
        backend.run({"x": np.array([2.0])})


def test_a_number_that_is_too_large_is_named_by_its_place() -> None:
    ids = np.arange(12).reshape(4, 3)
    ids[2, 1] = -(2**40)
    said = first_outside(ids, np.dtype(np.int32))
    assert said == "row 2, column 1: -1099511627776 is outside int32, which holds -2147483648 to 2147483647"
    assert first_outside(ids[:2], np.dtype(np.int32)) is None
    assert first_outside(np.array([0, 1, 2]), np.dtype(bool)) == "row 2: 2 is outside bool, which holds 0 to 1"


def test_litert_runs_row_by_row_where_the_batch_is_fixed(image_bundle: Bundle) -> None:
    path = image_bundle.artifact.path / "digits_cnn.tflite"
    backend = load(path, "tflite", input_names=["x"], output_names=["scores"])
    x = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)

    together = run_rows(backend, {"x": x})["scores"]

    assert backend.name == "litert"
    assert backend.inputs[0].shape == (1, 1, 8, 8)
    for i in range(3):
        np.testing.assert_array_equal(together[i : i + 1], backend.run({"x": x[i : i + 1]})["scores"])


def test_numbered_signature_names_are_ordered_as_numbers() -> None:
    named = [("args_10", {"index": 0}), ("args_2", {"index": 1})]

    assert [name for name, _ in _by_number(named, [])] == ["args_2", "args_10"]


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"y": np.zeros((1, 4), np.float32)}, "inputs are"),
        ({"x": np.zeros((1, 5), np.float32)}, "shape"),
        ({"x": np.zeros((1, 4), np.float64)}, "float32"),
        ({"x": np.zeros((0, 4), np.float32)}, "at least one"),
        ({}, "at least one"),
    ],
)
def test_what_does_not_fit_is_rejected(tmp_path: Path, feeds: dict[str, np.ndarray], message: str) -> None:
    onnx_file(tmp_path / "m.onnx", 4)
    backend = load(tmp_path / "m.onnx", "onnx")

    with pytest.raises(InputRejectedError, match=message):
        run_rows(backend, feeds)


@pytest.mark.parametrize("fmt", ["onnx", "tflite"])
def test_file_that_is_no_model_is_an_integrity_error(tmp_path: Path, fmt: str) -> None:
    (tmp_path / "m").write_bytes(b"not a model at all")

    with pytest.raises(IntegrityError, match="cannot load"):
        load(tmp_path / "m", fmt)


@pytest.mark.parametrize(("fmt", "modules"), [("onnx", ["onnxruntime"]), ("tflite", ["ai_edge_litert"])])
def test_missing_runtime_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fmt: str, modules: list[str]
) -> None:
    for name in [*modules, "ai_edge_litert.interpreter", "tflite_runtime"]:
        monkeypatch.setitem(sys.modules, name, None)

    with pytest.raises(BackendUnavailableError, match="pip install"):
        load(tmp_path / "m", fmt)


def test_unknown_format_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError, match="onnx, tflite"):
        load(tmp_path / "m", "mlpackage")


def test_profile_decides_threads_and_kernels_of_onnx_runtime(tmp_path: Path) -> None:
    onnx_file(tmp_path / "m.onnx", 4)
    chosen = Kernels(kleidiai=False, bfloat16=True)

    tuned = load(tmp_path / "m.onnx", "onnx", threads=3, kernels=chosen)._session.get_session_options()
    plain = load(tmp_path / "m.onnx", "onnx")._session.get_session_options()

    keys = ("mlas.disable_kleidiai", "mlas.enable_gemm_fastmath_arm64_bfloat16")
    assert [tuned.get_session_config_entry(key) for key in keys] == ["1", "1"]
    assert (tuned.intra_op_num_threads, plain.intra_op_num_threads) == (3, 1)
    for key in keys:
        with pytest.raises(RuntimeError, match=key):
            plain.get_session_config_entry(key)


@pytest.mark.parametrize(
    ("available", "xnnpack", "providers", "own_threads"),
    [
        (["XnnpackExecutionProvider"], True, ["XnnpackExecutionProvider", "CPUExecutionProvider"], 1),
        (["XnnpackExecutionProvider"], None, ["CPUExecutionProvider"], 4),
        ([], True, ["CPUExecutionProvider"], 4),
    ],
)
def test_xnnpack_of_onnx_runtime_is_used_where_asked_for_and_built_in(
    available: list[str], xnnpack: bool | None, providers: list[str], own_threads: int
) -> None:
    found, threads = _providers([*available, "CPUExecutionProvider"], 4, Kernels(xnnpack=xnnpack))

    assert [p if isinstance(p, str) else p[0] for p in found] == providers
    assert threads == own_threads
    if threads == 1:
        assert found[0][1] == {"intra_op_num_threads": "4"}


def test_litert_runs_with_and_without_xnnpack(image_bundle: Bundle) -> None:
    path = image_bundle.artifact.path / "digits_cnn.tflite"
    names = {"input_names": ["x"], "output_names": ["scores"]}
    usual = load(path, "tflite", threads=2, **names)
    without = load(path, "tflite", kernels=Kernels(xnnpack=False), **names)
    x = {"x": np.random.default_rng(0).random((1, 1, 8, 8), np.float32)}

    delegated = [
        any(op["op_name"] == "DELEGATE" for op in backend._interpreter._get_ops_details())
        for backend in (usual, without)
    ]

    assert delegated == [True, False]
    np.testing.assert_allclose(usual.run(x)["scores"], without.run(x)["scores"], atol=1e-5)


def test_bundle_takes_threads_and_kernels_of_the_profile_to_the_device(tmp_path: Path) -> None:
    parts = table_parts(tmp_path)
    board = parts.device.model_copy(update={"threads": 2, "kernels": profile.Kernels(kleidiai=False)})

    opened = Predictor(replace(parts, device=board).build().artifact.path)

    assert (opened.threads, opened.manifest.runtime.kernels) == (2, Kernels(kleidiai=False))
    options = opened.backend._session.get_session_options()
    assert (options.intra_op_num_threads, options.get_session_config_entry("mlas.disable_kleidiai")) == (2, "1")
    assert Predictor(opened.folder, threads=1).threads == 1


def test_installed_runtimes_go_by_the_names_of_manifests(monkeypatch: pytest.MonkeyPatch) -> None:
    assert installed_runtimes() == {"onnxruntime", "litert"}
    monkeypatch.setattr("edgewright_runtime.backends.find_spec", lambda name: name == "tflite_runtime" or None)
    assert installed_runtimes() == {"litert"}


@pytest.mark.parametrize(("dtype", "scaled"), [(np.int8, True), (np.float32, False), (np.int64, False)])
def test_scale_of_a_litert_tensor_counts_where_it_is_stored_in_few_bits(dtype: type, scaled: bool) -> None:
    detail = {"shape": np.array([1, 2]), "quantization": (0.5, 3), "dtype": dtype}

    name = np.dtype(dtype).name
    assert _spec("x", detail) == TensorSpec("x", (1, 2), name, *((0.5, 3) if scaled else ()))
