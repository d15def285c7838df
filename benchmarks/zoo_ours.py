"""A model of the zoo through this project's public functions, and the parity of the files.

Called in the process of the benchmark: what is heavy or may crash, these functions run in children of their own.
"""

import re
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.zoo_cells import parity_of
from benchmarks.zoo_source import inputs_of, model_file, split_rows
from edgewright.artifact import Format

__all__ = ["compared", "expected_answers", "exported", "measured", "taken_in"]


def taken_in(folder: str, store: str) -> dict[str, Any]:
    """Intake of the model with its data; the seconds are of the call alone, without this process's imports.

    Where sizes are free and it asks for them, it is given those of the data, as a user would.
    """
    from edgewright.artifact import ModelTask
    from edgewright.data import DataSpec
    from edgewright.errors import InputError
    from edgewright.intake import take_in
    from edgewright.store import Store

    model, spec = model_file(Path(folder)), DataSpec(path=Path(folder) / "data.npz", task=ModelTask.NONE)
    began = time.perf_counter()
    try:
        intake = take_in(model, spec, Store(Path(store)))
    except InputError as e:
        if "--shape" not in str(e):
            raise
        rows = split_rows(spec.path, "test")
        names = re.findall(r"input '([^']+)'", str(e)) if list(rows) == [""] else list(rows)
        named = zip(names, rows.values(), strict=True)
        shapes = {name: (1, *values.shape[1:]) for name, values in named if values.ndim > 1}
        began = time.perf_counter()
        intake = take_in(model, spec.model_copy(update={"shapes": shapes}), Store(Path(store)))
    return {"intake": intake.model_dump_json(), "seconds": time.perf_counter() - began}


def exported(folder: str, store: str, intake: str, platform: str, precision: str, answers: str) -> dict[str, Any]:
    """Export for one column, and how its file answers the test rows."""
    from edgewright.artifact import Intake, Precision
    from edgewright.child import run_in_child
    from edgewright.export import export
    from edgewright.forking import Frameworks
    from edgewright.profile import Platform
    from edgewright.store import Store

    known = Intake.model_validate_json(intake)
    began = time.perf_counter()
    made = export(known.model, known.dataset, Platform(platform), Precision(precision), Store(Path(store)))
    seconds = time.perf_counter() - began
    file = made.artifact
    job = partial(
        measured,
        file.path,
        file.format,
        Path(folder) / "data.npz",
        [(tensor.name, tensor.dtype) for tensor in made.inputs],
        [tensor.name for tensor in made.outputs],
        Path(answers),
    )
    what = f"running {file.path.name}"
    found = run_in_child(job, returns=dict[str, Any], what=what, frameworks=Frameworks.TORCH).value
    return {"seconds": seconds, "size_bytes": file.size_bytes, "notes": list(made.notes), **found}


def measured(
    file: Path, form: Format, data: Path, inputs: list[tuple[str, str]], outputs: list[str], answers: Path
) -> dict[str, Any]:
    """The child's side: parity of a file on the test rows."""
    from edgewright.export.runs import outputs_of

    rows = inputs_of(split_rows(data, "test"), [name for name, _ in inputs], [dtype for _, dtype in inputs])
    found = outputs_of(file, form, rows, outputs)
    return compared(answers, {name: found[name] for name in outputs})


def expected_answers(path: Path) -> list[NDArray[Any]]:
    """The source's own answers to the test rows, as `zoo_source.save_answers` left them."""
    with np.load(path, allow_pickle=False) as arrays:
        return [arrays[str(i)] for i in range(len(arrays.files))]


def compared(answers: Path, found: Mapping[Any, NDArray[Any]]) -> dict[str, Any]:
    """Parity of each output with the source's, or what makes them incomparable."""
    expected = expected_answers(answers)
    if len(found) != len(expected):
        return {"mismatch": f"{len(found)} outputs, the source has {len(expected)}"}
    parity = []
    for wanted, (name, got) in zip(expected, found.items(), strict=True):
        if wanted.shape != got.shape:
            return {"mismatch": f"output '{name}' has shape {got.shape}, the source's has {wanted.shape}"}
        one = parity_of(wanted, got)
        parity.append({"relative": one.relative, "decibels": one.decibels})
    return {"parity": parity}
