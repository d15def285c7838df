"""Core ML's side of measurement. No Mac was used: a stand-in for coremltools answers in the child processes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgewright.artifact import Dataset, Exported, Format
from edgewright.child import run_in_child
from edgewright.errors import ConversionError, ProfileError, UnsupportedError
from edgewright.measurement import PlannedOperator
from edgewright.profile import load_device, profiles_folder
from edgewright.validate import core_ml_units, measure
from edgewright.validate.core_ml_bench import planned
from edgewright.validate.ml_program import run_ml_program
from edgewright.validate.targets.choice import machine_of, target_of
from edgewright.validate.targets.core_ml import CoreMLTarget
from edgewright_runtime.bench.run import BenchModel, BenchSpec, read_arrays, write_arrays
from edgewright_runtime.errors import BackendUnavailableError
from tests.validate.conftest import exported
from tests.validate.core_ml_packages import core_ml_package
from tests.validate.coremltools_standin import ComputeUnit
from tests.validate.coremltools_standin.models.compute_plan import MLComputePlan

PHONE = load_device("iphone_15")
Package = Callable[..., Exported]


@pytest.fixture
def package(tmp_path: Path, weights: np.ndarray) -> Package:
    def made(name: str = "model", repeats: int = 1) -> Exported:
        path = core_ml_package(tmp_path / f"{name}.mlpackage", weights, repeats=repeats)
        return exported(path, Format.MLPACKAGE)

    return made


def test_core_ml_is_timed_interleaved_and_says_where_it_means_to_run(
    core_ml_standin: Path, package: Package, dataset: Dataset
) -> None:
    heavy, light = package("heavy", repeats=400), package("light")
    found = measure(heavy, light, dataset, PHONE, min_seconds=0.2, sustained_seconds=0.3)
    assert found.verdict == "faster"
    assert found.noise is not None
    assert found.runtime.startswith("Core ML of an unknown macOS (coremltools stand-in)")
    assert found.target == (
        "Core ML on this Mac (CPU, GPU and Neural Engine allowed; memory not bounded), its own threads"
    )
    for cost in (found.baseline, found.candidate):
        assert cost.latency is not None
        assert cost.latency.runs >= 60
        assert cost.load_ms is not None
        assert cost.first_ms is not None
        assert cost.peak_memory_mb is not None
        assert cost.one_thread is None  # Core ML chooses its threads
        assert [moment for moment, _ in cost.memory_steps][1] == "model loaded"
    assert found.sustained is not None
    assert found.not_measured == ("per-operator time: Core ML gives no answer to 'operators'",)
    assert found.compute_plan is not None
    assert found.compute_plan.units == "CPU, GPU and Neural Engine"
    assert dict(found.compute_plan.devices) == {"Neural Engine": 1, "CPU": 1}


def test_latency_holds_where_the_plan_crashes(core_ml_standin: Path, package: Package, dataset: Dataset) -> None:
    plan = core_ml_standin / "models" / "compute_plan.py"
    plan.write_text(
        plan.read_text() + "\n\nMLComputePlan.load_from_path = lambda *given, **named: __import__('os').abort()\n"
    )
    found = measure(package(), package("b"), dataset, PHONE, min_seconds=0.1)
    assert found.candidate.latency is not None
    assert found.compute_plan is None
    assert found.not_measured[1] == "compute plan: the process was ended by SIGABRT"


def test_package_that_this_macos_is_too_old_for_is_not_measured(
    core_ml_standin: Path, package: Package, dataset: Dataset
) -> None:
    old = "import platform\nplatform.mac_ver = lambda: ('13.6', ('', '', ''), 'arm64')\n"
    (core_ml_standin.parent / "sitecustomize.py").write_text(old)
    found = measure(package(), package("b"), dataset, PHONE)
    assert (found.verdict, found.candidate.latency) == ("not measured", None)
    assert "model.mlpackage needs macOS 14 (specification version 8), here is 13.6" in found.not_measured[0]


def test_rows_under_other_names_are_taken_in_order_and_missing_ones_named(
    core_ml_standin: Path, package: Package, weights: np.ndarray, tmp_path: Path
) -> None:
    path, x = str(package().artifact.path), np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)
    rows, out = tmp_path / "rows.npz", tmp_path / "out.npz"
    write_arrays(rows, {"features": x})

    def outputs(*names: str) -> BenchSpec:
        return BenchSpec("outputs", (BenchModel(path, "mlpackage", names),), str(rows), outputs=str(out))

    CoreMLTarget().run(outputs("features"), "running", 60)
    assert read_arrays(out)["scores"].argmax(axis=1).tolist() == (x @ weights).argmax(axis=1).tolist()
    with pytest.raises(ConversionError, match=r"running: the model's inputs \['x'\] are not among the rows' arrays"):
        CoreMLTarget().run(outputs(), "running", 60)


def test_evaluation_asks_core_ml_itself_on_a_mac(
    core_ml_standin: Path, package: Package, weights: np.ndarray, tmp_path: Path
) -> None:
    x = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)
    write_arrays(tmp_path / "rows.npz", {"x": x})
    job = partial(
        run_ml_program,
        package().artifact.path,
        rows=tmp_path / "rows.npz",
        answers=tmp_path / "out.npz",
        input_names=["x"],
        output_names=["scores"],
        native=True,
    )
    ran = run_in_child(job, returns=str, what="running", writes=[tmp_path])
    assert ran.value == "Core ML"
    assert read_arrays(tmp_path / "out.npz")["scores"].argmax(axis=1).tolist() == (x @ weights).argmax(axis=1).tolist()


def test_elsewhere_everything_is_refused_by_name(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_ml_units, "is_here", lambda: False)
    target = CoreMLTarget()
    assert target.name == "no Mac here"
    model = BenchModel(str(package().artifact.path), "mlpackage")
    for task in ("cold", "warm", "outputs", "sustained", "compute_plan"):
        with pytest.raises(UnsupportedError, match="running: Core ML runs on macOS and iOS only"):
            target.run(BenchSpec(task, (model,), "rows.npz"), "running", 60)


def test_other_formats_are_not_core_mls(core_ml_standin: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"Core ML reads \.mlpackage folders, not onnx"):
        CoreMLTarget().run(BenchSpec("cold", (BenchModel("m.onnx", "onnx"),), "rows.npz"), "running", 60)


def test_ios_profiles_are_measured_by_core_ml_with_what_they_name(tmp_path: Path) -> None:
    assert PHONE.target_kind == "core_ml"
    assert machine_of(PHONE) == "this machine"
    assert target_of(PHONE) == CoreMLTarget("ALL")
    for accelerators, units in ((("neural_engine",), "CPU_AND_NE"), (("gpu",), "CPU_AND_GPU"), ((), "ALL")):
        assert target_of(PHONE.model_copy(update={"accelerators": accelerators})) == CoreMLTarget(units)
    own = tmp_path / "own.yaml"
    own.write_text((profiles_folder() / "devices" / "iphone_15.yaml").read_text() + "target: local\n")
    with pytest.raises(ProfileError, match="platform ios has no target local"):
        load_device(str(own))
    own.write_text((profiles_folder() / "devices" / "pixel_8.yaml").read_text() + "target: core_ml\n")
    with pytest.raises(ProfileError, match="platform android has no target core_ml"):
        load_device(str(own))


def test_plan_counts_operators_by_device_and_orders_them_by_share() -> None:
    found = planned(MLComputePlan(ComputeUnit.CPU_AND_GPU), "CPU and GPU", "m")
    assert found.devices == (("CPU", 2),)
    assert found.unplanned == 1  # the loop; the constant is not counted
    assert found.costliest == (
        PlannedOperator("linear", "logits", "CPU", 0.75),
        PlannedOperator("softmax", "scores", "CPU", 0.25),
    )


def test_plan_that_says_nothing_is_not_taken_for_one() -> None:
    silent = MLComputePlan(ComputeUnit.ALL)
    silent.get_compute_device_usage_for_mlprogram_operation = lambda operation: None
    with pytest.raises(BackendUnavailableError, match="Core ML plans none of the 3 operators of m"):
        planned(silent, "all", "m")
    other = SimpleNamespace(model_structure=SimpleNamespace(program=None))
    with pytest.raises(BackendUnavailableError, match="m is not an ML program"):
        planned(other, "all", "m")


# What the stand-in has, as the installed coremltools has it: parameters by name, kind and whether they may be left out.
SIGNATURES = """
import dataclasses, inspect, json, sys
for unneeded in ("tensorflow", "sklearn", "xgboost", "libsvm"):
    sys.modules[unneeded] = None
import coremltools as ct
import coremltools.models.compute_plan as plan, coremltools.models.compute_device as device
calls = {
    "compile_model": ct.models.utils.compile_model,
    "CompiledMLModel": ct.models.CompiledMLModel.__init__,
    "predict": ct.models.CompiledMLModel.predict,
    "load_from_path": plan.MLComputePlan.load_from_path,
    "usage": plan.MLComputePlan.get_compute_device_usage_for_mlprogram_operation,
    "cost": plan.MLComputePlan.get_estimated_cost_for_mlprogram_operation,
}
found = {
    name: [(p.name, str(p.kind), p.default is p.empty) for p in inspect.signature(call).parameters.values()]
    for name, call in calls.items()
}
for name in ("MLModelStructure", "MLModelStructureProgram", "MLModelStructureProgramFunction",
             "MLModelStructureProgramBlock", "MLModelStructureProgramOperation",
             "MLModelStructureProgramNamedValueType", "MLComputePlanDeviceUsage", "MLComputePlanCost"):
    found[name] = [field.name for field in dataclasses.fields(getattr(plan, name))]
found["property"] = isinstance(inspect.getattr_static(plan.MLComputePlan, "model_structure"), property)
found["devices"] = [getattr(device, f"ML{kind}ComputeDevice").__name__ for kind in ("CPU", "GPU", "NeuralEngine")]
found["units"] = sorted(unit.name for unit in ct.ComputeUnit)
print(json.dumps([ct.__version__, found]))
"""


def test_stand_in_has_the_installed_coremltools_own_signatures(core_ml_standin: Path) -> None:
    told = []
    for path in (str(core_ml_standin.parent), ""):
        environment = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(
            [sys.executable, "-c", SIGNATURES], capture_output=True, text=True, check=True, env=environment
        )
        told.append(json.loads(done.stdout.splitlines()[-1]))
    (standin, ours), (version, real) = told
    assert (standin, version != standin) == ("stand-in", True)
    assert ours == real
