"""Before any board is there: does a file run on the device's core, does it agree with this machine, and, on Arm, what
does it execute."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

import numpy as np

from edgewright.artifact import Dataset, Exported, Format, Precision
from edgewright.errors import ConversionError, UnsupportedError
from edgewright.measurement import Emulation, Instructions
from edgewright.profile import DeviceProfile
from edgewright.store import Store
from edgewright.validate.parity import check_outputs
from edgewright.validate.rows import HeldOut, read_rows
from edgewright.validate.targets.answers import TooSlowError, expect_figures
from edgewright.validate.targets.arm import CORES, Core, EmulatedArm
from edgewright.validate.targets.arm_system import set_up
from edgewright.validate.targets.emulated_device import booted_as
from edgewright.validate.targets.local import LocalTarget
from edgewright.validate.targets.x86 import HASWELL, EmulatedX86
from edgewright_runtime.bench.answer import BenchAnswer, ColdFigures
from edgewright_runtime.bench.run import BenchModel, BenchSpec, read_arrays, write_arrays
from edgewright_runtime.bundle.processor import exact_kernels
from edgewright_runtime.update.golden import largest_difference

__all__ = ["emulate", "emulate_device"]

Returned = TypeVar("Returned")

_ROWS = 32  # emulation is slow; these many rows show a wrong kernel as well as all would
_ROWS_X86, _X86_S = 8, 60  # in each validation, so less of it
_COUNTED_RUNS = 3  # counts repeat exactly for LiteRT, within 0.01% for ONNX Runtime: the least of three
_A64 = tuple(core for core, facts in CORES.items() if facts.architecture == "arm64")
# Largest difference over the largest output. Kernels of another instruction set sum in another order, and round one
# quantization step (1/128 of the range at least) otherwise here and there; a wrong kernel is off by far more.
_TOLERANCE = {Precision.FLOAT32: 1e-3}
_QUANTIZED_TOLERANCE = 0.03


def emulate(
    exported: Exported,
    dataset: Dataset,
    cores: Sequence[Core | Literal["haswell"]] = _A64,
    *,
    timeout_s: float = 300,
) -> tuple[Emulation, ...]:
    """An exported file on each emulated core: outputs against this machine's, and on Arm instructions of one inference.

    A core on which the file does not run, or answers otherwise, is an answer, not an error: ``failure`` says why. That
    of x86 is left out where the file is too large to be emulated within a minute.

    Raises:
        UnsupportedError: nothing here emulates that core (says what is missing), no runtime of that architecture reads
            the file, or Core ML, which no Linux runs.
        TransientError: the root file system could not be fetched.
    """
    _refuse_core_ml(exported)
    held_out = read_rows(dataset)
    emulations = (
        _emulate_x86(EmulatedX86(), exported, held_out, min(timeout_s, _X86_S))
        if core == HASWELL
        else _emulate_core(EmulatedArm(core, set_up(CORES[core].architecture)), exported, held_out, timeout_s)
        for core in cores
    )
    return tuple(emulation for emulation in emulations if emulation is not None)


def emulate_device(exported: Exported, dataset: Dataset, device: DeviceProfile, *, timeout_s: float = 300) -> Emulation:
    """An exported file on a whole emulated machine with the device's memory: whether it fits, and what it takes.

    Raises:
        UnsupportedError: no whole device is emulated here (says what is missing), or Core ML.
        DeviceUnreachableError: the device did not come up.
    """
    _refuse_core_ml(exported)
    held_out = read_rows(dataset)
    core = f"{device.cores} x {device.emulated_core}, whole device"
    emulation = Emulation(core=core, rows=min(_ROWS, held_out.count), device_memory_mb=device.memory_mb)
    with booted_as(device) as target:
        what = f"running {exported.artifact.path.name} on {target.name}"

        def run(spec: BenchSpec) -> ColdFigures:
            target.run(spec, what, timeout_s)
            cold = target.run(replace(spec, task="cold", outputs=""), what, timeout_s)
            return expect_figures(cold, ColdFigures, what).figures

        try:
            largest, cold = _compared(run, "outputs", exported, held_out, what, timeout_s)
        except ConversionError as e:
            return emulation.model_copy(update={"failure": str(e)})
    update = {"max_relative": largest, "peak_memory_mb": cold.peak_memory_mb}
    return emulation.model_copy(update={**update, "failure": _disagreement(largest, exported.precision)})


def _refuse_core_ml(exported: Exported) -> None:
    if exported.artifact.format is Format.MLPACKAGE:
        raise UnsupportedError("emulated Arm target: Core ML runs on macOS and iOS only")


def _emulate_core(target: EmulatedArm, exported: Exported, held_out: HeldOut, timeout_s: float) -> Emulation:
    what = f"running {exported.artifact.path.name} on an emulated {target.core}"

    def run(spec: BenchSpec) -> Instructions:
        return target.instructions(spec, what, timeout_s)

    try:
        largest, instructions = _compared(run, "marked", exported, held_out, what, timeout_s)
    except ConversionError as e:
        return Emulation(core=target.core, failure=str(e))
    return Emulation(
        core=target.core,
        failure=_disagreement(largest, exported.precision),
        rows=min(_ROWS, held_out.count),
        max_relative=largest,
        instructions=instructions,
    )


def _emulate_x86(target: EmulatedX86, exported: Exported, held_out: HeldOut, timeout_s: float) -> Emulation | None:
    what = f"running {exported.artifact.path.name} on an emulated {target.core}"

    def run(spec: BenchSpec) -> BenchAnswer[object]:
        return target.run(spec, what, timeout_s)

    emulation = Emulation(core=f"{target.core} (x86 without VNNI)", rows=min(_ROWS_X86, held_out.count))
    try:
        largest, _ = _compared(run, "outputs", exported, held_out, what, timeout_s, _ROWS_X86)
    except TooSlowError:  # says nothing of the file
        return None
    except ConversionError as e:
        return emulation.model_copy(update={"failure": str(e)})
    return emulation.model_copy(update={"max_relative": largest, "failure": _disagreement(largest, exported.precision)})


def _compared(
    run: Callable[[BenchSpec], Returned],
    task: str,
    exported: Exported,
    held_out: HeldOut,
    what: str,
    timeout_s: float,
    count: int = _ROWS,
) -> tuple[float, Returned]:
    """Largest difference of the outputs there from those here, over the largest output; and what ``run`` answered.

    Raises:
        ConversionError: it does not run there, or its outputs are missing, NaN or of another shape.
    """
    file = exported.artifact
    model = BenchModel(str(file.path), file.format.value, tuple(held_out.inputs))
    with Store().workspace() as scratch:
        rows, here, there = (scratch / name for name in ("rows.npz", "here.npz", "there.npz"))
        write_arrays(rows, {name: array[:count] for name, array in held_out.inputs.items()})
        # With the kernels that compute as the target's processor does: the difference shows a wrong file, not another
        # rounding.
        spec = BenchSpec("outputs", (model,), str(rows), outputs=str(here), kernels=exact_kernels(exported.made_for))
        LocalTarget().run(spec, what, timeout_s)
        answer = run(BenchSpec(task, (model,), str(rows), outputs=str(there), min_runs=_COUNTED_RUNS))
        expected, actual = read_arrays(here), read_arrays(there)
    check_outputs(expected, actual, what)
    # Beside an infinity, such as a mask's, any difference would be none.
    largest = max(float(np.abs(e[np.isfinite(e)]).max(initial=0.0)) for e in expected.values())
    difference = max(largest_difference(actual[name].reshape(e.shape), e) for name, e in expected.items())
    return (difference / largest if largest else difference), answer


def _disagreement(relative: float, precision: Precision) -> str:
    allowed = _TOLERANCE.get(precision, _QUANTIZED_TOLERANCE)
    if relative <= allowed:
        return ""
    return f"its outputs differ from this machine's by {relative:.2g} of the largest, allowed are {allowed:g}"
