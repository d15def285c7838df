"""Measured for real, in child processes of this machine; no time is ever asserted, only what must hold of any."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgewright.artifact import Dataset, Exported, Format
from edgewright.errors import ConversionError
from edgewright.profile import Timing, load_device
from edgewright.validate import measure, performance
from edgewright_runtime.bench import run as bench
from edgewright_runtime.bench import timing as bench_timing
from edgewright_runtime.bench.run import BenchModel, BenchSpec
from tests.validate.conftest import exported

Export = Callable[..., Exported]
DEVICE = load_device("generic_edge_device")


def test_model_with_a_fraction_of_the_work_is_faster(dataset: Dataset, export: Export, weights: np.ndarray) -> None:
    heavy, light = export(weights, "heavy.onnx", repeats=12), export(weights, "light.onnx")
    found = measure(heavy, light, dataset, DEVICE, min_seconds=0.4)
    assert found.verdict == "faster"
    assert found.ratio is not None
    assert found.ratio.low <= found.ratio.value <= found.ratio.high < 1
    assert found.noise is not None
    assert found.runtime.startswith("onnxruntime ")
    said = dict(found.environment)
    assert said["runtime"] == found.runtime
    assert said.get("processor") == bench._processor()
    for cost in (found.baseline, found.candidate):
        assert cost.latency is not None
        assert cost.latency.p99_ms is not None
        assert 0 < cost.latency.min_ms <= cost.latency.p50_ms <= cost.latency.p95_ms <= cost.latency.p99_ms
        assert cost.latency.runs >= 60
        assert cost.load_ms is not None
        assert cost.first_ms is not None
    assert found.baseline.download_bytes > found.candidate.download_bytes
    assert {operator.operator for operator in found.candidate.operators} >= {"MatMul", "Softmax"}
    assert found.baseline.operators == ()


@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux's")
def test_added_memory_is_the_models_not_the_runtimes(dataset: Dataset, export: Export, weights: np.ndarray) -> None:
    heavy, light = export(weights, "heavy.onnx", repeats=16), export(weights, "light.onnx")
    found = measure(light, heavy, dataset, DEVICE, min_seconds=0.1)
    weights_mb = heavy.artifact.size_bytes / (1 << 20)
    assert found.candidate.added_memory_mb is not None
    assert found.baseline.added_memory_mb is not None
    assert found.candidate.peak_memory_mb is not None
    assert found.candidate.added_memory_mb - found.baseline.added_memory_mb > 0.9 * weights_mb
    assert found.candidate.peak_memory_mb > found.candidate.added_memory_mb


def test_same_file_is_measured_once_and_never_called_faster(
    dataset: Dataset, export: Export, weights: np.ndarray
) -> None:
    model = export(weights, repeats=3)
    found = measure(model, model, dataset, DEVICE, min_seconds=0.1)
    assert found.verdict == "no difference that this machine can show"
    assert found.baseline == found.candidate
    assert found.ratio is not None
    assert found.ratio.value == 1.0


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac runs Core ML")
def test_core_ml_is_not_measured_off_apple(dataset: Dataset, tmp_path: Path) -> None:
    package = tmp_path / "model.mlpackage"
    package.mkdir()
    (package / "Manifest.json").write_text("{}")
    model = exported(package, Format.MLPACKAGE)
    found = measure(model, model, dataset, DEVICE)
    assert found.verdict == "not measured"
    assert found.candidate.latency is None
    assert found.ratio is None
    assert found.candidate.download_bytes > 0
    assert "Core ML runs on macOS and iOS only" in found.not_measured[0]


def test_rows_that_do_not_fit_the_model_are_named(dataset: Dataset, export: Export, weights: np.ndarray) -> None:
    with np.load(dataset.artifact.path) as archive:
        arrays = {**archive, "test.x.x": archive["test.x.x"][:, :5]}
    np.savez(dataset.artifact.path, **arrays)
    model = export(weights)
    with pytest.raises(
        ConversionError, match=r"loading model.onnx: input 'x' has shape \[-1, 16\], given was \[1, 5\]"
    ):
        measure(model, model, dataset, DEVICE)


def test_profile_says_how_many_runs_there_are_at_least(dataset: Dataset, export: Export, weights: np.ndarray) -> None:
    device = DEVICE.model_copy(update={"timing": Timing(min_runs=30_000, min_seconds=0.05)})
    found = measure(export(weights), export(weights, "b.onnx", repeats=2), dataset, device)
    assert found.baseline.latency is not None
    assert found.candidate.latency is not None
    assert min(found.baseline.latency.runs, found.candidate.latency.runs) >= 30_000
    assert not any("runs" in reason for reason in found.not_measured)
    few = performance._too_few(found, Timing(min_runs=10**9))
    assert few.startswith("latency of 1000000000 runs: ")


@pytest.mark.parametrize(
    ("runs", "elapsed", "goes_on"),
    [(10, 6.0, True), (10, 61.0, False), (60, 6.0, False), (60, 1.5, True), (60, 0.5, True)],
    ids=["few-runs", "a-minute", "enough", "imprecise", "few-seconds"],
)
def test_timing_goes_on_until_it_has_what_was_asked_for(runs: int, elapsed: float, goes_on: bool) -> None:
    spec = BenchSpec("warm", (BenchModel("m", "onnx"),) * 2, "rows", min_runs=60, min_seconds=1.0, epochs=8)
    epoch = [[[1_000_000] * runs], [[2_000_000] * runs]]  # one epoch of two models: too few to be precise
    assert bench_timing._another(spec, [epoch], elapsed) is goes_on


def test_corrupted_file_is_named_not_traced(dataset: Dataset, export: Export, weights: np.ndarray) -> None:
    model = export(weights)
    whole = model.artifact.path.read_bytes()
    model.artifact.path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConversionError, match=r"loading model.onnx: model.onnx: ONNX Runtime .* cannot load it"):
        measure(model, model, dataset, DEVICE)
