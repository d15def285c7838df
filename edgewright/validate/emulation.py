"""Before any board is there: does a file run on an Arm core, does it agree with this machine, what does it execute."""

from collections.abc import Sequence

import numpy as np

from edgewright.artifact import Artifact, Dataset, Exported, Format
from edgewright.errors import ConversionError, UnsupportedError
from edgewright.measurement import Emulation, Instructions
from edgewright.store import Store
from edgewright.validate.rows import HeldOut, read_rows
from edgewright.validate.targets.arm64 import CORES, Core, EmulatedArm, set_up
from edgewright.validate.targets.local import LocalTarget
from edgewright_runtime.bench import BenchModel, BenchSpec, read_arrays, write_arrays

__all__ = ["emulate"]

_ROWS = 32  # emulation is slow; these many rows show a wrong kernel as well as all would
_COUNTED_RUNS = 3  # counts repeat exactly for LiteRT, within 0.01% for ONNX Runtime: the least of three


def emulate(
    exported: Exported, dataset: Dataset, cores: Sequence[Core] = tuple(CORES), *, timeout_s: float = 300
) -> tuple[Emulation, ...]:
    """An exported file on each emulated core: outputs against this machine's, and instructions of one inference.

    A core on which the file does not run is an answer, not an error: ``failure`` says why.

    Raises:
        UnsupportedError: nothing here emulates Arm (says what is missing), or Core ML, which no Linux runs.
        TransientError: the root file system could not be fetched.
    """
    if exported.artifact.format is Format.MLPACKAGE:
        raise UnsupportedError("emulated Arm target: Core ML runs on macOS and iOS only")
    root = set_up()
    held_out = read_rows(dataset)
    return tuple(_emulate_one(EmulatedArm(core, root), exported.artifact, held_out, timeout_s) for core in cores)


def _emulate_one(target: EmulatedArm, file: Artifact, held_out: HeldOut, timeout_s: float) -> Emulation:
    model = BenchModel(str(file.path), file.format.value, tuple(held_out.inputs))
    what = f"running {file.path.name} on an emulated {target.core}"
    with Store().workspace() as scratch:
        rows, here, there = (scratch / name for name in ("rows.npz", "here.npz", "there.npz"))
        write_arrays(rows, {name: array[:_ROWS] for name, array in held_out.inputs.items()})
        LocalTarget().run(BenchSpec("outputs", (model,), str(rows), outputs=str(here)), what, timeout_s)
        try:
            spec = BenchSpec("marked", (model,), str(rows), outputs=str(there), min_runs=_COUNTED_RUNS)
            counted = target.instructions(spec, what, timeout_s)
        except ConversionError as e:
            return Emulation(core=target.core, failure=str(e))
        expected, found = read_arrays(here), read_arrays(there)
    largest = max(float(np.abs(expected[name]).max()) for name in expected)
    difference = max(float(np.abs(found[name] - expected[name]).max()) for name in expected)
    return Emulation(
        core=target.core,
        rows=min(_ROWS, held_out.count),
        max_relative=difference / largest if largest else difference,
        instructions=Instructions(core=target.core, **counted),
    )
