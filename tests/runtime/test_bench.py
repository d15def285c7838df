"""The bench as a device runs it: its own process, files in and out."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgewright_runtime.bench import run as bench
from edgewright_runtime.bench.answer import (
    BenchAnswer,
    ColdFigures,
    Machine,
    SustainedFigures,
    SustainedWindow,
    answer_json,
)
from edgewright_runtime.bench.run import BenchModel, BenchSpec, read_arrays, write_arrays
from edgewright_runtime.bench.spec import single_rows, spec_json, spec_of
from edgewright_runtime.bundle.manifest import Kernels
from edgewright_runtime.errors import InputRejectedError

FEATURES = 8


def scaled(path: Path, factor: float, width: int = FEATURES) -> BenchModel:
    """``y = factor * x``, as an ONNX file."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "scaled",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", width])],
        [numpy_helper.from_array(factor * np.eye(width, dtype=np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return BenchModel(str(path), "onnx", ("x",), ("y",))


@pytest.fixture
def rows(tmp_path: Path) -> str:
    path = tmp_path / "rows.npz"
    write_arrays(path, {"x": np.random.default_rng(0).normal(size=(300, FEATURES)).astype(np.float32)})
    return str(path)


def run(tmp_path: Path, spec: BenchSpec | dict[str, Any]) -> dict[str, Any]:
    asked, answered = tmp_path / "spec.json", tmp_path / "answer.json"
    asked.write_text(json.dumps(spec if isinstance(spec, dict) else asdict(spec)))
    command = [sys.executable, "-m", "edgewright_runtime.bench", "--spec", str(asked), "--out", str(answered)]
    subprocess.run(command, check=True, timeout=120)
    answer: dict[str, Any] = json.loads(answered.read_text())
    return answer


def test_outputs_are_those_of_every_row_in_order(tmp_path: Path, rows: str) -> None:
    model, out = scaled(tmp_path / "m.onnx", 3.0), tmp_path / "out.npz"
    answer = run(tmp_path, BenchSpec("outputs", (model,), rows, outputs=str(out)))
    assert answer["rows"] == 300
    assert answer["runtime"] == "onnxruntime"
    np.testing.assert_allclose(read_arrays(out)["y"], 3.0 * read_arrays(Path(rows))["x"], rtol=1e-6)


def test_cold_figures_come_from_a_fresh_process(tmp_path: Path, rows: str) -> None:
    answer = run(tmp_path, BenchSpec("cold", (scaled(tmp_path / "m.onnx", 1.0),), rows))
    assert answer["load_ms"] > 0
    assert answer["first_ms"] > 0
    if sys.platform == "linux":
        assert 0 < answer["added_memory_mb"] < answer["peak_memory_mb"]


def test_warm_figures_are_interleaved_over_several_loads(tmp_path: Path, rows: str) -> None:
    models = (scaled(tmp_path / "a.onnx", 1.0), scaled(tmp_path / "b.onnx", 2.0))
    spec = BenchSpec("warm", models, rows, min_runs=50, min_rounds=12, min_seconds=0.05, epochs=3, precision=1e9)
    answer = run(tmp_path, spec)
    assert len(answer["series"]) == 2
    for series in answer["series"]:
        assert len(series["block_ms"]) == 3
        assert sum(len(epoch) for epoch in series["block_ms"]) >= 12
        assert series["runs"] >= 50
        assert 0 < series["min_ms"] <= series["p50_ms"] <= series["p90_ms"] <= series["p95_ms"] <= series["p99_ms"]
        assert 0 < len(series["sample_ms"]) <= 1000
    rounds = [[len(epoch) for epoch in series["block_ms"]] for series in answer["series"]]
    assert rounds[0] == rounds[1]


def test_model_that_cannot_load_is_answered_not_traced(tmp_path: Path, rows: str) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    answer = run(tmp_path, BenchSpec("cold", (BenchModel(str(broken), "onnx"),), rows))
    assert answer["error"]["type"] == "IntegrityError"
    assert "broken.onnx" in answer["error"]["message"]


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS binds on Linux")
def test_memory_limit_binds(tmp_path: Path, rows: str) -> None:
    wide = tmp_path / "wide.npz"
    write_arrays(wide, {"x": np.zeros((1, 2000), np.float32)})
    model = scaled(tmp_path / "m.onnx", 1.0, width=2000)  # 16 MB of weights
    fits = run(tmp_path, BenchSpec("cold", (model,), str(wide), limit_mb=400))
    assert "load_ms" in fits
    refused = run(tmp_path, BenchSpec("cold", (model,), str(wide), limit_mb=4))
    assert refused["error"]["type"] in {"MemoryError", "ShortageError"}


def test_misspelt_key_and_unknown_task_are_refused(tmp_path: Path, rows: str) -> None:
    model = scaled(tmp_path / "m.onnx", 1.0)
    spec = asdict(BenchSpec("cold", (model,), rows))
    misspelt = run(tmp_path, {**spec, "thread": 2})
    assert "unknown keys ['thread']" in misspelt["error"]["message"]
    unknown = run(tmp_path, {**spec, "task": "hot"})
    assert "unknown bench task 'hot'; known: outputs, cold, warm" in unknown["error"]["message"]


def test_missing_input_is_named(tmp_path: Path) -> None:
    rows = tmp_path / "rows.npz"
    write_arrays(rows, {"z": np.zeros((2, FEATURES), np.float32)})
    with pytest.raises(InputRejectedError, match=r"inputs \['x'\] are not among the rows' arrays \['z'\]"):
        bench.bench(BenchSpec("cold", (scaled(tmp_path / "m.onnx", 1.0),), str(rows)))


def test_arrays_keep_names_that_numpy_itself_uses(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", {"file": np.ones(2), "allow_pickle": np.zeros(1)})
    assert sorted(read_arrays(tmp_path / "a.npz")) == ["allow_pickle", "file"]


def test_operator_times_name_the_models_operators(tmp_path: Path, rows: str) -> None:
    answer = run(tmp_path, BenchSpec("operators", (scaled(tmp_path / "m.onnx", 1.0),), rows, min_runs=4))
    (row,) = answer["operators"]
    assert (row["operator"], row["calls"]) == ("MatMul", 1)
    assert row["mean_us"] > 0


def test_memory_is_shown_step_by_step(tmp_path: Path, rows: str) -> None:
    if sys.platform != "linux":
        pytest.skip("VmRSS is Linux's")
    answer = run(tmp_path, BenchSpec("cold", (scaled(tmp_path / "m.onnx", 1.0),), rows))
    moments = [moment for moment, _ in answer["memory_steps"]]
    assert moments == ["runtime imported", "model loaded", "first inference", "ten more"]


def test_sustained_run_is_cut_into_windows(tmp_path: Path, rows: str) -> None:
    answer = run(tmp_path, BenchSpec("sustained", (scaled(tmp_path / "m.onnx", 1.0),), rows, min_seconds=0.2))
    assert len(answer["windows"]) == 10
    assert all(window["low_ms"] > 0 and window["runs"] > 0 for window in answer["windows"])


def test_what_a_machine_does_not_show_is_null_or_left_out_as_older_workstations_read_it() -> None:
    cold = ColdFigures("a", "1", 2.0, 3.0, peak_memory_mb=None, memory_steps=(("loaded", 4.0),), added_memory_mb=None)
    assert json.loads(answer_json(BenchAnswer(cold, Machine(machine="x", cores=2)))) == {
        "runtime": "a",
        "version": "1",
        "load_ms": 2.0,
        "first_ms": 3.0,
        "peak_memory_mb": None,
        "memory_steps": [["loaded", 4.0]],
        "added_memory_mb": None,
        "machine": {"machine": "x", "cores": 2},
        "before": {},
        "after": {},
    }
    windows = (SustainedWindow(1.0, 9), SustainedWindow(2.0, 8, 50.0))
    heated = json.loads(answer_json(BenchAnswer(SustainedFigures("a", "1", windows), Machine())))
    assert heated["windows"] == [{"low_ms": 1.0, "runs": 9}, {"low_ms": 2.0, "runs": 8, "temperature_c": 50.0}]
    assert not heated.keys() & {"joules", "meter"}


def test_kernels_of_the_profile_run_the_model(tmp_path: Path, rows: str) -> None:
    spec = BenchSpec("cold", (scaled(tmp_path / "m.onnx", 1.0),), rows, kernels=Kernels(kleidiai=False))
    assert spec_of(json.loads(spec_json(spec))) == spec
    assert run(tmp_path, spec)["load_ms"] > 0


def test_model_without_inputs_is_one_clear_line() -> None:
    with pytest.raises(InputRejectedError, match="the model has no inputs"):
        single_rows(SimpleNamespace(inputs=()), {}, 1)


def test_lower_limit_of_memory_that_stands_already_goes_on() -> None:
    script = (
        "import resource\n"
        "from edgewright_runtime.health.process_memory import limit_memory\n"
        "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        "limit_memory(1 << 20)\n"  # a terabyte
        "print(resource.getrlimit(resource.RLIMIT_AS) == (4 << 30, 4 << 30))\n"
        "limit_memory(16)\n"
        "print(resource.getrlimit(resource.RLIMIT_AS)[1] < 4 << 30)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == (["True", "True"], "")
