"""One contract, every target: the same answers, and the same words for what goes wrong."""

import errno
import json
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewright.artifact import Dataset, Exported
from edgewright.errors import ConversionError, InputError, ProfileError, UnsupportedError
from edgewright.package import Bundle, read_bundle
from edgewright.pipeline.bundle_check import validated_bundle
from edgewright.profile import AdbConnection, DeviceProfile, load_device
from edgewright.store import Store
from edgewright.validate import emulate
from edgewright.validate.machine import machine, measured_by
from edgewright.validate.targets import Target, arm_system, cgroup, local
from edgewright.validate.targets.adb import AdbPythonTarget
from edgewright.validate.targets.answers import answer_of, expect_figures
from edgewright.validate.targets.arm import EmulatedArm
from edgewright.validate.targets.choice import machine_of, target_of
from edgewright.validate.targets.core_ml import CoreMLTarget
from edgewright.validate.targets.local import LocalTarget, run_bench
from edgewright.validate.targets.ssh import SshTarget
from edgewright.validate.targets.x86 import EmulatedX86, missing_tool
from edgewright_runtime.bench.answer import BenchAnswer, ColdFigures, Machine, MachineState, OutputFigures
from edgewright_runtime.bench.run import BenchModel, BenchSpec, read_arrays, write_arrays
from tests.plugin_sites import EXAMPLES, installed
from tests.validate.core_ml_packages import core_ml_package

Export = Callable[..., Exported]
FEATURES = 16


@pytest.fixture(scope="session")
def arm_root(arm_home: Path) -> Path:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("EDGEWRIGHT_HOME", str(arm_home))
        return arm_system.set_up("arm64")


# As a device writes it: neither a processor nor what memory the model added is shown there.
COLD: dict[str, Any] = {
    "runtime": "onnxruntime",
    "version": "1.20",
    "load_ms": 5,
    "first_ms": 1.5,
    "peak_memory_mb": 60.5,
    "memory_steps": [["model loaded", 50.0]],
    "added_memory_mb": None,
    "machine": {"machine": "aarch64", "system": "Linux 6.1", "python": "3.9.2", "cores": 4},
}
KINDS = [
    "local",
    "ssh",
    "adb",
    "core_ml",
    "plugin",
    pytest.param("x86", marks=pytest.mark.slow),
    pytest.param("cortex-a53", marks=pytest.mark.slow),
    pytest.param("device", marks=pytest.mark.slow),
]


@pytest.fixture
def nice_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DeviceProfile:
    """The profile of the example, whose distribution is installed as `pip install --target` leaves it."""
    monkeypatch.syspath_prepend(installed("target_plugin", tmp_path / "site"))
    return load_device(str(EXAMPLES / "target_plugin" / "nice_device.yaml"))


@pytest.fixture(params=KINDS)
def target(request: pytest.FixtureRequest) -> Target:
    match request.param:
        case "local":
            return LocalTarget()
        case "ssh":
            return SshTarget(request.getfixturevalue("board"))
        case "adb":
            request.getfixturevalue("adb_standin")
            folder = request.getfixturevalue("tmp_path") / "phone"
            return AdbPythonTarget(AdbConnection(python=sys.executable, folder=str(folder)))
        case "core_ml":
            request.getfixturevalue("core_ml_standin")
            return CoreMLTarget()
        case "plugin":
            return target_of(request.getfixturevalue("nice_device"))
        case "x86":
            if reason := missing_tool():
                pytest.skip(reason)
            return EmulatedX86()
        case "device":
            found: Target = request.getfixturevalue("device")
            return found
        case core:
            return EmulatedArm(core, request.getfixturevalue("arm_root"))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.npz"
    write_arrays(path, {"x": np.random.default_rng(0).normal(size=(5, FEATURES)).astype(np.float32)})
    return path


def model_of(exported: Exported) -> BenchModel:
    return BenchModel(str(exported.artifact.path), exported.artifact.format.value, ("x",), ("scores",))


@pytest.fixture
def own_model(target: Target, export: Export, weights: np.ndarray, tmp_path: Path) -> BenchModel:
    """The linear classifier in a format that the target takes."""
    if isinstance(target, CoreMLTarget):
        package = core_ml_package(tmp_path / "model.mlpackage", weights)
        return BenchModel(str(package), "mlpackage", ("x",), ("scores",))
    return model_of(export(weights))


def cold_answer(target: Target, model: BenchModel, rows: Path) -> BenchAnswer[ColdFigures]:
    return expect_figures(target.run(BenchSpec("cold", (model,), str(rows)), "running", 120), ColdFigures, "running")


class TestTarget:
    """What `edgewright.validate.targets.Target` promises."""

    def test_outputs_are_the_models_own(
        self, target: Target, own_model: BenchModel, weights: np.ndarray, rows: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out.npz"
        spec = BenchSpec("outputs", (own_model,), str(rows), outputs=str(out))
        answer = expect_figures(target.run(spec, "running", 120), OutputFigures, "running")
        assert answer.figures.rows == 5
        logits = read_arrays(rows)["x"].astype(np.float64) @ weights
        expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(read_arrays(out)["scores"], expected, atol=1e-5)

    def test_cold_figures_say_what_was_measured_and_where(
        self, target: Target, own_model: BenchModel, rows: Path
    ) -> None:
        answer = cold_answer(target, own_model, rows)
        assert answer.figures.load_ms > 0
        assert answer.figures.first_ms > 0
        assert answer.figures.runtime
        assert answer.figures.version
        assert answer.machine.cores is not None
        assert answer.machine.cores >= 1
        assert target.name
        assert target.own_memory or target.emulated

    def test_rows_that_do_not_fit_are_named(
        self, target: Target, own_model: BenchModel, rows: Path, tmp_path: Path
    ) -> None:
        narrow = tmp_path / "narrow.npz"
        write_arrays(narrow, {"x": read_arrays(rows)["x"][:, 1:]})
        spec = BenchSpec("outputs", (own_model,), str(narrow), outputs=str(tmp_path / "out.npz"))
        with pytest.raises(ConversionError, match=r"running: .*shape") as caught:
            target.run(spec, "running", 120)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out.npz").exists()

    def test_refused_file_is_named(self, target: Target, tmp_path: Path, rows: Path) -> None:
        runtime, form = ("Core ML", "mlpackage") if isinstance(target, CoreMLTarget) else ("ONNX Runtime", "onnx")
        broken = tmp_path / f"broken.{form}"
        broken.write_bytes(b"not a model")
        with pytest.raises(ConversionError, match=rf"running: .*\.{form}: {runtime} .* cannot load it"):
            target.run(BenchSpec("cold", (BenchModel(str(broken), form),), str(rows)), "running", 120)

    def test_hang_is_ended(self, target: Target, own_model: BenchModel, rows: Path) -> None:
        spec = BenchSpec("warm", (own_model,), str(rows), min_seconds=600, max_seconds=600)
        with pytest.raises(ConversionError, match="running: no answer after 3 s; the process was stopped"):
            target.run(spec, "running", 3)


def test_model_over_the_memory_limit_does_not_fit(export: Export, weights: np.ndarray, rows: Path) -> None:
    heavy = model_of(export(weights, "heavy.onnx", repeats=40))  # 21 MB of weights
    with pytest.raises(ConversionError, match=r"running: does not fit in 8 MB \(needed about \d+ MB\)"):
        LocalTarget(memory_mb=8).run(BenchSpec("cold", (heavy,), str(rows)), "running", 120)
    assert cold_answer(LocalTarget(memory_mb=2000), heavy, rows).figures.load_ms > 0


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for a control group; test_emulated_device.py has real ones."""
    folder = tmp_path / "group"
    folder.mkdir()
    (folder / "memory.events").write_text("low 0\noom 0\noom_kill 0\n")
    monkeypatch.setattr(cgroup, "delegated", lambda: tmp_path)
    monkeypatch.setattr(cgroup, "memory_bound", lambda below, limit_mb: nullcontext(folder))
    return folder


def test_bench_enters_the_control_group(group: Path, export: Export, weights: np.ndarray, rows: Path) -> None:
    target = LocalTarget(memory_mb=512)
    assert target.name == "this machine (512 MB by cgroup v2)"
    assert cold_answer(target, model_of(export(weights)), rows).figures.load_ms > 0
    assert (group / "cgroup.procs").read_text() == "0"


def test_process_that_its_control_group_ended_does_not_fit(
    group: Path, export: Export, weights: np.ndarray, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(spec: BenchSpec, what: str, timeout_s: float) -> BenchAnswer[object]:
        if not spec.cgroup:  # the second run, to say how much is needed
            return run_bench(spec, what, timeout_s)
        (group / "memory.events").write_text("oom_kill 1\n")
        return answer_of(None, -9, "", spec.task, what)

    monkeypatch.setattr(local, "run_bench", killed)
    with pytest.raises(ConversionError, match=r"running: does not fit in 512 MB \(needed about \d+ MB\)"):
        LocalTarget(memory_mb=512).run(BenchSpec("cold", (model_of(export(weights)),), str(rows)), "running", 120)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no processor affinity on this system")
def test_cores_are_bounded(export: Export, weights: np.ndarray, rows: Path) -> None:
    target = LocalTarget(cores=1)
    assert cold_answer(target, model_of(export(weights)), rows).machine.cores == 1
    assert target.name == "this machine (1 core(s) by affinity)"


@pytest.mark.parametrize(
    ("content", "code", "log", "said"),
    [
        (None, -11, "", "ended by SIGSEGV"),
        (None, 132, "", "ended by SIGILL"),
        (None, 3, "last words", r"exit code 3 and no answer \(last words\)"),
        (None, -6, "terminate called: std::bad_alloc", "out of memory"),
        ('{"error": {"type": "MemoryError", "message": ""}}', 0, "", "out of memory"),
    ],
)
def test_silence_is_named(content: str | None, code: int, log: str, said: str) -> None:
    with pytest.raises(ConversionError, match=f"running: .*{said}"):
        answer_of(content, code, log, "cold", "running")


def test_emulated_core_agrees_and_counts_more_for_more_work(
    arm_root: Path, export: Export, weights: np.ndarray, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEWRIGHT_HOME", str(arm_root.parents[1]))
    (light,) = emulate(export(weights), dataset, ["cortex-a72"])
    (heavy,) = emulate(export(weights, "heavy.onnx", repeats=8), dataset, ["cortex-a72"])
    for found in (light, heavy):
        assert found.failure == ""
        assert found.max_relative is not None
        assert found.max_relative < 1e-5
    assert light.instructions is not None
    assert heavy.instructions is not None
    # Eight more pairs of 256 x 256 products: 1,048,576 multiply-adds, four in one SIMD instruction.
    assert heavy.instructions.simd - light.instructions.simd > 8 * 2 * 256 * 256 / 4
    assert heavy.instructions.total > heavy.instructions.simd > 0


@pytest.mark.slow
def test_32_bit_core_runs_litert_files_and_no_other(
    arm_home: Path, image_bundle: Bundle, export: Export, weights: np.ndarray, dataset: Dataset
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("EDGEWRIGHT_HOME", str(arm_home))
        ours = validated_bundle(read_bundle(image_bundle.artifact.path), Store())
        (narrow,) = emulate(ours.exported, ours.golden, ["cortex-a7"])
        assert narrow.failure == ""
        assert narrow.max_relative is not None
        assert narrow.max_relative < 1e-4
        assert narrow.instructions is not None
        assert min(narrow.instructions.simd, narrow.instructions.load_store, narrow.instructions.branch) > 0
        with pytest.raises(UnsupportedError, match="no runtime for onnx files is built for cortex-a7"):
            emulate(export(weights), dataset, ["cortex-a7"])


def test_emulated_core_says_why_a_file_does_not_run(
    arm_root: Path, export: Export, weights: np.ndarray, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEWRIGHT_HOME", str(arm_root.parents[1]))
    monkeypatch.setattr(EmulatedArm, "instructions", _illegal)
    (found,) = emulate(export(weights), dataset, ["cortex-a53"])
    assert "SIGILL" in found.failure
    assert found.instructions is None


def _illegal(target: EmulatedArm, spec: BenchSpec, what: str, timeout_s: float) -> BenchAnswer[object]:
    return answer_of(None, 128 + 4, "", spec.task, what)


def test_missing_dataset_is_refused_before_emulation(
    arm_root: Path, export: Export, weights: np.ndarray, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEWRIGHT_HOME", str(arm_root.parents[1]))
    exported = export(weights)
    dataset.artifact.path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        emulate(exported, dataset)


def test_a_registered_target_has_a_name_a_machine_and_code_of_its_own(nice_device: DeviceProfile) -> None:
    assert target_of(nice_device).name == "this machine (niceness 15)"
    assert machine_of(nice_device) == 'nice {"niceness": 15}'
    assert measured_by(nice_device).startswith(f"{machine()}, nice ")
    other = nice_device.model_copy(update={"target_options": {"niceness": 3}})
    assert machine_of(other) != machine_of(nice_device)


def test_a_target_that_nobody_registered_is_refused(tmp_path: Path) -> None:
    text = (EXAMPLES / "target_plugin" / "nice_device.yaml").read_text()
    (tmp_path / "device.yaml").write_text(text)
    with pytest.raises(ProfileError, match=r"unknown target 'nice'; known: local, emulated_device, ssh, adb, core_ml$"):
        load_device(str(tmp_path / "device.yaml"))
    (tmp_path / "device.yaml").write_text(text.replace("target: nice", "target: local"))
    with pytest.raises(ProfileError, match="target_options are for targets of other distributions, not for local"):
        load_device(str(tmp_path / "device.yaml"))


@pytest.mark.parametrize(
    "content",
    [
        "Welcome to the board\n",
        'Welcome\n{"runtime": "x"}',
        "[1, 2]",
        "3",
        '{"error": "no"}',
        '{"error": {"type": "X"}}',
        "[" * 100_000,
    ],
)
def test_an_answer_that_the_bench_does_not_give_is_one_clear_line(content: str) -> None:
    with pytest.raises(ConversionError, match=r"running: the (answer is not the bench's|bench's error has no type)"):
        answer_of(content, 0, "", "cold", "running")


def test_answer_of_an_older_runtime_and_of_a_newer_one_are_read() -> None:
    """Older: no processor, no state before and after. Newer: keys that nobody here knows."""
    answer = expect_figures(answer_of(json.dumps(COLD), 0, "", "cold", "running"), ColdFigures, "running")
    assert answer.figures.memory_steps == (("model loaded", 50.0),)
    assert answer.figures.added_memory_mb is None
    assert (answer.machine.processor, answer.machine.cores) == (None, 4)
    assert answer.before == MachineState()
    newer = {**COLD, "swapped_mb": 1.0, "machine": {**COLD["machine"], "board": "x"}, "before": {"fan_rpm": 900}}
    assert answer_of(json.dumps(newer), 0, "", "cold", "running") == answer


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"load_ms": None}, "'cold': load_ms = None: input should be a valid number"),
        ({"load_ms": ...}, "'cold': key 'load_ms' is missing"),
        ({"machine": ...}, "'cold': key 'machine' is missing"),
        ({"machine": {"cores": "many"}}, "'cold': machine.cores = 'many': input should be a valid integer"),
        ({"memory_steps": [["loaded"]]}, r"'cold': key 'memory_steps\.0\.1' is missing"),
    ],
)
def test_answer_without_what_a_figure_needs_is_one_clear_line(changed: dict[str, object], said: str) -> None:
    document = {key: value for key, value in {**COLD, **changed}.items() if value is not ...}
    with pytest.raises(ConversionError, match=f"running: the bench's answer to {said}.*update the runtime there") as e:
        answer_of(json.dumps(document), 0, "", "cold", "running")
    assert "\n" not in str(e.value)


def test_joules_without_their_meter_are_refused() -> None:
    heated = {"runtime": "a", "version": "1", "windows": [], "joules": 0.5, "machine": {}}
    with pytest.raises(ConversionError, match=r"joules = 0\.5 and meter = None: both or neither are expected"):
        answer_of(json.dumps(heated), 0, "", "sustained", "running")


@pytest.mark.parametrize("answer", [COLD, BenchAnswer(OutputFigures("a", "1", rows=3), Machine())])
def test_target_that_answers_something_else_is_named(answer: Any) -> None:
    with pytest.raises(ConversionError, match=r"running: the target answered with (dict|OutputFigures), expected is a"):
        expect_figures(answer, ColdFigures, "running")


def test_a_group_that_empties_a_moment_later_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel answers EBUSY as long as a process that has ended is in it; no such group is delegated here."""
    group, busy = tmp_path / "group", [1, 1]
    group.mkdir()
    remove = Path.rmdir

    def rmdir(self: Path) -> None:
        if busy:
            busy.pop()
            raise OSError(errno.EBUSY, "Device or resource busy")
        remove(self)

    monkeypatch.setattr(Path, "rmdir", rmdir)
    cgroup._remove(group)
    assert not group.exists()
