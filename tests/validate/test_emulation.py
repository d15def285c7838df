"""What an emulated core's answers are held against; here a stand-in for the emulator answers as told."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewright.artifact import Dataset, Exported
from edgewright.measurement import Emulation, Energy, Instructions, Sustained
from edgewright.profile import load_device
from edgewright.validate import emulate, emulation
from edgewright.validate.energy import energy_of
from edgewright.validate.targets import debian
from edgewright.validate.targets.answers import TooSlowError
from edgewright.validate.targets.arm import EmulatedArm
from edgewright.validate.targets.local import LocalTarget
from edgewright.validate.targets.x86 import EmulatedX86, missing_tool
from edgewright_runtime.bench.answer import BenchAnswer
from edgewright_runtime.bench.run import BenchSpec, read_arrays, write_arrays

Arrays = dict[str, np.ndarray]
COUNTS = {"integer": 10, "simd": 20, "load_store": 30, "branch": 40}


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Callable[[Arrays], Arrays]], None]:
    """The stand-in runs the file here, and changes the outputs on their way back."""

    def install(change: Callable[[Arrays], Arrays]) -> None:
        def instructions(target: EmulatedArm, spec: BenchSpec, what: str, timeout_s: float) -> Instructions:
            LocalTarget().run(BenchSpec("outputs", spec.models, spec.rows, outputs=spec.outputs), what, timeout_s)
            write_arrays(Path(spec.outputs), change(read_arrays(Path(spec.outputs))))
            return Instructions(core=target.core, **COUNTS)

        monkeypatch.setattr(EmulatedArm, "instructions", instructions)
        monkeypatch.setattr(emulation, "set_up", lambda _: tmp_path)

    return install


def spoilt(outputs: Arrays, change: Any) -> Arrays:
    return {name: change(array) for name, array in outputs.items()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: np.where(a == a.max(), np.nan, a), "is NaN or infinite in 1 of 32 test rows"),
        (lambda a: a[:, :2], r"has shape \[2\] a row, the source model's has \[3\]"),
        (lambda a: a + 0.1, "its outputs differ from this machine's by 0.1"),
    ],
    ids=["nan", "shape", "values"],
)
def test_wrong_outputs_are_a_failure_of_that_core(
    answering: Callable[[Callable[[Arrays], Arrays]], None],
    export: Callable[..., Exported],
    weights: np.ndarray,
    dataset: Dataset,
    change: Any,
    said: str,
) -> None:
    answering(lambda outputs: spoilt(outputs, change))
    (found,) = emulate(export(weights), dataset, ["cortex-a53"])
    assert re.search(said, found.failure)


@pytest.mark.parametrize(("moved", "allowed"), [(0.0, True), (0.1, False)])
def test_a_mask_that_both_give_is_agreement(
    answering: Callable[[Callable[[Arrays], Arrays]], None],
    export: Callable[..., Exported],
    weights: np.ndarray,
    dataset: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    moved: float,
    allowed: bool,
) -> None:
    run = LocalTarget.run

    def masking(target: LocalTarget, spec: BenchSpec, what: str, timeout_s: float) -> BenchAnswer[object]:
        answer = run(target, spec, what, timeout_s)
        outputs = read_arrays(Path(spec.outputs))
        for array in outputs.values():
            array[:, 0] = -np.inf
        write_arrays(Path(spec.outputs), outputs)
        return answer

    monkeypatch.setattr(LocalTarget, "run", masking)
    answering(lambda outputs: spoilt(outputs, lambda array: array + moved))
    (found,) = emulate(export(weights), dataset, ["cortex-a53"])
    assert (found.failure == "") is allowed
    assert np.isfinite(found.max_relative)


def test_equal_outputs_pass(
    answering: Callable[[Callable[[Arrays], Arrays]], None],
    export: Callable[..., Exported],
    weights: np.ndarray,
    dataset: Dataset,
) -> None:
    answering(lambda outputs: outputs)
    (found,) = emulate(export(weights), dataset, ["cortex-a53"])
    assert (found.failure, found.max_relative) == ("", 0.0)
    assert found.instructions == Instructions(core="cortex-a53", **COUNTS)


@pytest.mark.skipif(missing_tool() is not None, reason=missing_tool() or "")
def test_an_x86_core_without_vnni_runs_the_file(
    export: Callable[..., Exported], weights: np.ndarray, dataset: Dataset
) -> None:
    (found,) = emulate(export(weights), dataset, ["haswell"])
    assert (found.failure, found.instructions) == ("", None)
    assert found.max_relative is not None
    assert found.max_relative < 1e-5
    assert "x86 without VNNI" in found.core


def test_a_file_that_is_too_large_for_the_emulator_says_nothing_of_itself(
    export: Callable[..., Exported], weights: np.ndarray, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(target: EmulatedX86, spec: BenchSpec, what: str, timeout_s: float) -> BenchAnswer[object]:
        assert timeout_s == 60
        raise TooSlowError(f"{what}: no answer")

    monkeypatch.setattr(EmulatedX86, "run", slow)
    assert emulate(export(weights), dataset, ["haswell"]) == ()


def test_energy_is_measured_before_it_is_estimated() -> None:
    counted = (Emulation(core="cortex-a53", instructions=Instructions(core="cortex-a53", **COUNTS)),)
    board = load_device("raspberry_pi_zero_2_w").model_copy(update={"joules_per_instruction": 1e-9})
    metered = Sustained(seconds=1, low_ms=(1.0,), energy=Energy(joules=0.5, source="RAPL"))
    assert energy_of(metered, counted, board) == metered.energy
    estimate = energy_of(Sustained(seconds=1, low_ms=(1.0,)), counted, board)
    assert estimate is not None
    assert estimate.estimated
    assert estimate.joules == pytest.approx(1e-7)
    assert energy_of(None, counted, board.model_copy(update={"joules_per_instruction": None})) is None
    assert energy_of(None, (), board) is None


def test_system_that_another_process_made_meanwhile_is_taken(tmp_path: Path) -> None:
    made, staged = tmp_path / "targets" / "arm64", tmp_path / "staged"
    staged.mkdir()
    (staged / "ours").touch()
    debian.place(staged, made)
    assert (made / "ours").exists()
    late = tmp_path / "late"
    late.mkdir()
    (late / "theirs").touch()
    debian.place(late, made)
    assert [entry.name for entry in made.iterdir()] == ["ours"]
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        debian.place(late, tmp_path / "file")
