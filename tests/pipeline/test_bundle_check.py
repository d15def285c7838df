"""A finished bundle on devices: what the release manager is told, and that nobody disturbs a measurement."""

import multiprocessing
import multiprocessing.synchronize
import threading
from pathlib import Path

import numpy as np
import pytest

from edgewright.artifact import Artifact, Dataset, Format
from edgewright.measurement import Energy
from edgewright.package import Bundle, read_bundle
from edgewright.pipeline import bundle_check
from edgewright.pipeline.bundle_check import ValidatedBundle, check_bundle, check_rows, validated_bundle
from edgewright.profile import Budget, DeviceProfile, SshConnection, load_device
from edgewright.store import Store
from edgewright.validate import core_ml_units
from edgewright.validate.targets.choice import alone_on, machine_of, opened
from edgewright_runtime.bench.run import write_arrays
from tests.validate.conftest import exported
from tests.validate.core_ml_packages import core_ml_package


@pytest.fixture
def ours(table_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> ValidatedBundle:
    monkeypatch.setattr(bundle_check, "QUICK_SUSTAINED_S", 0.3)
    return validated_bundle(read_bundle(table_bundle.artifact.path), Store())


@pytest.fixture
def device() -> DeviceProfile:
    return load_device("raspberry_pi_5").model_copy(update={"budget": Budget(max_memory_mb=500)})


def test_bundle_that_runs_and_fits_passes(ours: ValidatedBundle, device: DeviceProfile) -> None:
    found = check_bundle(ours, None, device, quick=True)
    assert found.passed
    assert found.difference is not None
    assert found.difference <= 1
    assert found.performance is not None
    assert found.performance.sustained is not None
    assert found.performance.candidate.one_thread is not None
    (row,) = check_rows([found])
    assert row["verdict"] == "passed"
    assert row["energy"] == "not measured"


def test_missed_limit_and_other_outputs_are_told_apart(ours: ValidatedBundle, device: DeviceProfile) -> None:
    tight = device.model_copy(update={"budget": Budget(max_memory_mb=0.001), "threads": 1})
    missed = check_bundle(ours, None, tight, quick=True)
    assert not missed.passed
    assert missed.failure == ""
    assert "misses its limit" in check_rows([missed])[0]["verdict"]
    with np.load(ours.golden.artifact.path) as stored:
        moved = {name: array + 1 if name.startswith("test.reference") else array for name, array in stored.items()}
    np.savez(ours.golden.artifact.path, **moved)
    other = check_bundle(ours, None, tight, quick=True)
    assert "golden outputs differ by" in other.failure


def test_output_that_must_be_equal_is_compared_too(ours: ValidatedBundle, device: DeviceProfile) -> None:
    """As the class labels of a scikit-learn model: nothing is allowed, and nothing differs."""
    exact = ours.model_copy(update={"tolerance": tuple((name, 0.0) for name, _ in ours.tolerance)})
    assert check_bundle(exact, None, device, quick=True).difference in {0.0, float("inf")}
    assert (bundle_check._share(0.0, 0.0), bundle_check._share(1.0, 0.0)) == (0.0, float("inf"))


def test_what_was_not_measured_is_not_said_to_be_passed(
    tmp_path: Path, weights: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An iOS bundle where no Core ML is: its outputs come from this project's evaluator, its latency from nowhere."""
    monkeypatch.setattr(core_ml_units, "is_here", lambda: False)

    def evaluated(file: Artifact, paths: tuple[Path, Path], *named: object) -> str:
        with np.load(phone.golden.artifact.path) as stored:
            write_arrays(paths[1], {"scores": stored["test.reference.scores"]})
        return "the evaluator"

    phone = ios_bundle(tmp_path, weights)
    monkeypatch.setattr(bundle_check, "run_package", evaluated)
    found = check_bundle(phone, None, load_device("iphone_15"), quick=True)
    (row,) = check_rows([found])
    assert row["verdict"] == "passed as far as it was measured"
    assert row["golden outputs"] == "0 of what is allowed, by the evaluator"
    assert row["p50 / p95 ms"] == "not measured"
    assert row["measured on"] == "no Mac here"


def test_core_ml_bundle_is_measured_whole_on_a_mac(
    core_ml_standin: Path, tmp_path: Path, weights: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_check, "QUICK_SUSTAINED_S", 0.3)
    found = check_bundle(ios_bundle(tmp_path, weights), None, load_device("iphone_15"), quick=True)
    (row,) = check_rows([found])
    assert row["verdict"] == "passed"
    assert row["operators prefer"] == "Neural Engine 1, CPU 1"
    assert row["measured on"].startswith("Core ML on this Mac")


def ios_bundle(folder: Path, weights: np.ndarray) -> ValidatedBundle:
    """What `validated_bundle` makes of an iOS bundle whose package the stand-in runs."""
    package = core_ml_package(folder / "model.mlpackage", weights)
    x = np.random.default_rng(0).normal(size=(4, len(weights))).astype(np.float32)
    raised = np.exp(x @ weights)
    reference = {
        "test.x.x": x,
        "test.reference.scores": raised / raised.sum(axis=1, keepdims=True),
        "test.y": np.zeros(4),
    }
    np.savez(folder / "golden.npz", **reference)
    return ValidatedBundle(
        exported=exported(package, Format.MLPACKAGE),
        golden=Dataset(
            artifact=Store().put(folder / "golden.npz", Format.DATASET),
            calibration_rows=0,
            validation_rows=0,
            test_rows=4,
        ),
        tolerance=(("scores", 1e-4),),
    )


def test_device_that_takes_another_format_is_not_tried(ours: ValidatedBundle) -> None:
    found = check_bundle(ours, None, load_device("pixel_8"), quick=True)
    assert (found.target, found.passed) == ("not tried", False)
    assert "pixel_8 takes tflite files" in found.failure


def test_energy_is_said_to_be_an_estimate() -> None:
    found = bundle_check.DeviceCheck(
        device="d", target="t", energy=Energy(joules=0.002, source="10 instructions", estimated=True)
    )
    assert check_rows([found])[0]["energy"] == "2 mJ (estimate: 10 instructions)"


def test_boards_are_their_own_machines_and_the_rest_is_this_one(device: DeviceProfile) -> None:
    board = device.model_copy(update={"ssh": SshConnection(host="pi", user="u")})
    assert machine_of(board) == "ssh pi:22"
    assert machine_of(device) == machine_of(load_device("generic_android")) == "this machine"


def test_second_measurement_on_a_machine_waits_for_the_first(device: DeviceProfile) -> None:
    entered, order = threading.Event(), []

    def second() -> None:
        entered.set()
        with opened(device):
            order.append("second")

    waiting = threading.Thread(target=second)
    with opened(device):
        waiting.start()
        entered.wait()
        waiting.join(0.3)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]


def test_lock_holds_between_processes_and_dies_with_its_holder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    holder = context.Process(target=_hold, args=("board", held))
    holder.start()
    assert held.wait(30)
    done = threading.Event()
    waiting = threading.Thread(target=_enter, args=("board", done))
    waiting.start()
    assert not done.wait(0.3)
    holder.kill()
    holder.join()
    assert done.wait(30)
    waiting.join()


def _hold(machine: str, held: multiprocessing.synchronize.Event) -> None:
    with alone_on(machine):
        held.set()
        threading.Event().wait(60)


def _enter(machine: str, done: threading.Event) -> None:
    with alone_on(machine):
        done.set()


def test_equal_infinities_are_equal_answers() -> None:
    golden = np.array([[1.0, -np.inf, np.nan]], np.float32)
    assert bundle_check._largest(golden.copy(), golden) == 0
    assert bundle_check._largest(golden + np.float32(0.5), golden) == 0.5
    for other in (np.nan, np.inf, -9.0):
        assert bundle_check._largest(np.where(golden == -np.inf, np.float32(other), golden), golden) == float("inf")
