"""No phone was used: a stand-in for ``adb`` answers as a phone does, with benchmark_model's real output format."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgewright.artifact import Dataset, Exported, Format
from edgewright.errors import ConversionError, DeviceUnreachableError, UnsupportedError
from edgewright.profile import AdbConnection, load_device
from edgewright.store import Store
from edgewright.validate import measure
from edgewright.validate.targets.adb import AdbPythonTarget, AdbTarget, parse_benchmark
from edgewright.validate.targets.answers import expect_figures
from edgewright.validate.targets.choice import target_of
from edgewright_runtime.bench.answer import ColdFigures
from edgewright_runtime.bench.run import BenchModel, BenchSpec

OUTPUT = """INFO: STARTING!
INFO: Applied XNNPACK delegate
INFO: count=120 first=2500 curr=2100 min=2000 max=2600 avg=2150 std=80 p5=2010 median=2140 p95=2300
INFO: count=500 first=1034 curr=1030 min=1001 max=1240 avg=1.03274e+03 std=20 p5=1009 median=1030 p95=1100
INFO: Inference timings in us: Init: 6013, First inference: 2500, Warmup (avg): 2150, Inference (avg): 1032.74
INFO: Memory footprint delta from the start of the tool (MB): init=1.5 overall=3.25
"""


@pytest.fixture
def phone(tmp_path: Path, adb_standin: Path) -> AdbConnection:
    program = tmp_path / "benchmark_model"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{OUTPUT}END\n")
    return AdbConnection(benchmark_model=program, serial="PHONE1", folder=str(tmp_path / "phone"))


@pytest.fixture
def spec(tmp_path: Path) -> BenchSpec:
    model = tmp_path / "m.tflite"
    model.write_bytes(b"a model that the stand-in does not read")
    return BenchSpec("cold", (BenchModel(str(model), "tflite"),), "unused")


def test_cold_figures_are_the_programs_own(phone: AdbConnection, spec: BenchSpec) -> None:
    found = expect_figures(AdbTarget(phone).run(spec, "measuring", 60), ColdFigures, "measuring")
    assert (found.figures.load_ms, found.figures.first_ms, found.figures.added_memory_mb) == (6.013, 2.5, 3.25)
    assert found.machine.delegate == "XNNPACK"


def test_measured_lines_are_taken_not_those_of_the_warm_up() -> None:
    found = parse_benchmark(OUTPUT, "measuring")
    assert (found.median_us, found.p95_us, found.runs) == (1030, 1100, 500)


def test_baseline_and_candidate_are_interleaved(
    phone: AdbConnection, dataset: Dataset, export: Callable[..., Exported], weights: np.ndarray, tmp_path: Path
) -> None:
    models = []
    for name in ("a", "b"):
        file = tmp_path / f"{name}.tflite"
        file.write_bytes(name.encode() * 100)
        artifact = Store().put(file, Format.TFLITE)
        models.append(export(weights).model_copy(update={"artifact": artifact}))
    found = measure(*models, dataset, load_device("pixel_8").model_copy(update={"adb": phone}))
    assert found.target.startswith("Android phone PHONE1 over adb")
    assert found.candidate.latency is not None
    assert (found.candidate.latency.p50_ms, found.candidate.latency.p99_ms) == (1.03, None)
    assert found.verdict == "no difference that this machine can show"
    assert "benchmark_model on a phone gives no answer to 'operators'" in found.not_measured[0]
    graphs = [
        line.split("--graph=")[1].split()[0]
        for line in (tmp_path / "adb.log").read_text().splitlines()
        if "--graph=" in line
    ]
    a, b = graphs[0], graphs[1]
    assert graphs[2:8] == [a, b, a, a, b, a]


def test_files_are_pushed_once(phone: AdbConnection, spec: BenchSpec, tmp_path: Path) -> None:
    for _ in range(2):
        AdbTarget(phone).run(spec, "measuring", 60)
    pushes = [line for line in (tmp_path / "adb.log").read_text().splitlines() if line.startswith("push")]
    assert len(pushes) == 2  # the program and the model


def test_file_that_rotted_on_the_phone_is_pushed_again(
    phone: AdbConnection, spec: BenchSpec, tmp_path: Path, adb_standin: Path
) -> None:
    AdbTarget(phone).run(spec, "measuring", 60)
    (pushed,) = (tmp_path / "phone").glob("*.tflite")
    whole = pushed.read_bytes()
    pushed.write_bytes(b"A" + whole[1:])

    AdbTarget(phone).run(spec, "measuring", 60)

    assert pushed.read_bytes() == whole


def test_missing_phone_may_be_tried_again(phone: AdbConnection, spec: BenchSpec, tmp_path: Path) -> None:
    (tmp_path / "bin" / "adb").write_text("#!/bin/sh\necho \"adb: device 'PHONE1' not found\" >&2\nexit 1\n")
    with pytest.raises(DeviceUnreachableError, match=r"measuring: .*device 'PHONE1' not found"):
        AdbTarget(phone).run(spec, "measuring", 60)


def test_failure_of_the_program_is_named(phone: AdbConnection, spec: BenchSpec) -> None:
    phone.benchmark_model.write_text("#!/bin/sh\necho 'ERROR: Failed to load model'\nexit 1\n")
    with pytest.raises(ConversionError, match="exit code 1: ERROR: Failed to load model"):
        AdbTarget(phone).run(spec, "measuring", 60)


def test_program_without_percentiles_is_too_old(phone: AdbConnection, spec: BenchSpec) -> None:
    old = OUTPUT.replace(" p5=1009 median=1030 p95=1100", "").replace(" p5=2010 median=2140 p95=2300", "")
    phone.benchmark_model.write_text(f"#!/bin/sh\ncat <<'END'\n{old}END\n")
    with pytest.raises(UnsupportedError, match="build one of 2024 or later"):
        AdbTarget(phone).run(spec, "measuring", 60)


def test_outputs_are_not_to_be_had(phone: AdbConnection, spec: BenchSpec) -> None:
    with pytest.raises(UnsupportedError, match="gives no answer to 'outputs'"):
        AdbTarget(phone).run(BenchSpec("outputs", spec.models, spec.rows), "measuring", 60)


def test_profile_names_one_way_to_measure(phone: AdbConnection) -> None:
    by_python = AdbConnection(python="python3", serial="PHONE1")
    device = load_device("pixel_8")
    assert isinstance(target_of(device.model_copy(update={"adb": phone})), AdbTarget)
    assert isinstance(target_of(device.model_copy(update={"adb": by_python})), AdbPythonTarget)
    with pytest.raises(ValueError, match="either benchmark_model or python"):
        AdbConnection()


def test_phone_that_goes_away_from_its_python_may_be_tried_again(spec: BenchSpec, adb_standin: Path) -> None:
    adb_standin.write_text("#!/bin/sh\necho 'error: device offline' >&2\nexit 1\n")
    target = AdbPythonTarget(AdbConnection(python="python3"))
    with pytest.raises(DeviceUnreachableError, match="device offline"):
        target.run(replace(spec, rows=spec.models[0].path), "measuring", 60)


def test_a_file_name_is_no_command_on_the_phone(phone: AdbConnection, spec: BenchSpec, tmp_path: Path) -> None:
    model = tmp_path / "m.tflite;touch X;"
    model.write_bytes(b"a model that the stand-in does not read")
    AdbTarget(phone).run(replace(spec, models=(BenchModel(str(model), "tflite"),)), "measuring", 60)
    assert not list(tmp_path.rglob("X"))
    assert [p for p in (tmp_path / "phone").iterdir() if p.name.endswith(".tflite;touch X;")]


def test_a_phone_is_heated_by_default(
    phone: AdbConnection, dataset: Dataset, export: Callable[..., Exported], weights: np.ndarray, tmp_path: Path
) -> None:
    file = tmp_path / "a.tflite"
    file.write_bytes(b"a" * 100)
    model = export(weights).model_copy(update={"artifact": Store().put(file, Format.TFLITE)})
    found = measure(model, model, dataset, load_device("pixel_8").model_copy(update={"adb": phone}))
    assert "gives no answer to 'sustained'" in found.not_measured[-1]
