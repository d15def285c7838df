"""Small models that once failed, taken from public reports: each must hold as its ``expect.md`` says.

    make cases                      all of ``../shared/cases``, a table and ``benchmarks/results/cases.json``
    make cases MINUTES=5            one model of each case first, then the rest while time is left

A case is a folder with a ``make_case.py OUT``, which writes models, data and, for most models, the source's own answers
to the test rows (``NAME.npy``), taken outside this project. Each model goes through intake and out to three platforms
in float32 and int8. The source's answers as this project sees them must be those of the file; each exported file must
answer as its source, or be refused in an error of ours that says what to do. Exit code 1 where one does not hold.
"""

import argparse
import itertools
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgewright import export, intake, validate
from edgewright.artifact import Dataset, Exported, Format, Intake, ModelTask, Precision
from edgewright.child import deferred, run_in_child
from edgewright.data import DataSpec, load_data_spec
from edgewright.errors import EdgewrightError
from edgewright.export.runs import outputs_of
from edgewright.forking import Frameworks
from edgewright.pipeline.parameters import DeploymentParameters
from edgewright.profile import Platform
from edgewright.recipe import load_recipe
from edgewright.release.patches import build_patch
from edgewright.store import Store
from edgewright.validate.machine import machine
from edgewright.validate.verdict import accuracy_fault

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "cases.json"
FLOAT32_LIMIT = 1e-4
"""Largest difference over the largest output, as the cases have it."""
INT8_LIMIT = 0.15
INT8_DROP_PERCENT = 1.0
"""int8 holds where it is within `INT8_LIMIT` of the largest output, or loses at most so much accuracy."""
_PRECISIONS = (Precision.FLOAT32, Precision.INT8)
_MODELS = (".pt2", ".onnx", ".pkl", ".keras")
_PATCHED_PAIR = "second_release_small_file"  # two files lie beside it; its script looks for such pairs, minutes long
_BUILD_S = 600


@dataclass(frozen=True)
class Rule:
    """What a case asks beyond equal answers.

    ``refused``: the phrase that a refusal must hold, by model; ``*`` stands for every model of the case. Others may
    refuse nothing but int8 that has no benefit. ``taken``: no refusal is the only right end. ``accuracy``: the source's
    own, at least. ``task``: what it must be. ``asked``: the task that the data file names; the answers there are no
    labels.
    ``is_int8_judged``: int8 itself must hold; in other cases a file that loses too much must be one that the accuracy
    gate of a deployment holds back, with the default recipe and on the validation rows, so that float32 is released.
    """

    refused: dict[str, str] = field(default_factory=dict)
    taken: bool = True
    accuracy: dict[str, float] = field(default_factory=dict)
    task: dict[str, ModelTask] = field(default_factory=dict)
    asked: ModelTask | None = None
    is_int8_judged: bool = False
    target: str | None = None


_NO_BENEFIT = (
    "int8 has no benefit here: no weight has more than 256 elements$"
    "|int8 has no benefit here: it holds no convolution or dense layer to quantize$"
    "|int8 would move the thresholds that its decisions rest on; it stays float32$"
)
_SHAPED = r"'y_train' has shape \(\d+(, \d+)+\); expected one answer for each row\. .*task: none needs no answers$"
_CLASSIFIED = ModelTask.CLASSIFICATION
_RULES = {
    "avgpool_ceil_and_adaptive": Rule(asked=ModelTask.NONE),
    "exported_in_training_mode": Rule(
        {"*": r"the program was exported in training mode \(aten\.\w+\.default at '\w+'\).*; call model\.eval\(\)"},
        taken=False,
    ),
    "conv_transpose_zoo": Rule(is_int8_judged=True),
    "ids_as_floats": Rule(is_int8_judged=True),
    "labels_written_as_floats": Rule(
        accuracy={"linear": 0.99, "net": 0.99}, task={"linear": _CLASSIFIED, "net": _CLASSIFIED}
    ),
    "log_target_and_log_features": Rule(
        {
            "quantile_normal": "QuantileTransformer with output_distribution='normal' has no path; fit it with "
            "'uniform', or take a PowerTransformer$"
        }
    ),
    "single_sigmoid_output": Rule(
        {"three": _SHAPED, "segmentation": _SHAPED}, accuracy={"net": 0.95}, task={"net": _CLASSIFIED}
    ),
    "tabular_unscaled_int8": Rule(accuracy={"net": 0.96}, is_int8_judged=True),
    "text_column_with_blanks": Rule(accuracy={"onehot": 0.9}, target="sold"),
}


@dataclass(frozen=True)
class Outcome:
    """What came of one model on one platform in one precision, or of the model as a whole (``platform`` empty)."""

    case: str
    model: str
    platform: str
    precision: str
    holds: bool
    said: str
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, default=ROOT.parent / "shared" / "cases")
    parser.add_argument("--only", help="part of a case's name; then nothing is written")
    parser.add_argument(
        "--minutes", type=float, default=1e6, help="begin no model after so long; those left out are named"
    )
    asked = parser.parse_args()
    if not asked.cases.is_dir():
        print(f"no cases here: {asked.cases} is absent")
        return
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as pool:
        folders = [f for f in sorted(asked.cases.iterdir()) if f.is_dir() and (asked.only or "") in f.name]
        built = {f: Path(scratch) / f.name for f in folders if f.name != _PATCHED_PAIR}
        failures = dict(zip(built, pool.map(_build, built, built.values()), strict=True))
        outcomes = [Outcome(case.name, "", "", "", False, why, 0) for case, why in failures.items() if why]
        trials = list(_interleaved({case: _models(into) for case, into in built.items()}))
        end = time.monotonic() + 60 * asked.minutes

        def try_in_time(trial: tuple[Path, Path]) -> list[Outcome] | None:
            case, model = trial
            store = Path(scratch) / "stores" / f"{case.name}-{model.name}"
            return None if time.monotonic() > end else _tried(case.name, model, store)

        results = list(pool.map(try_in_time, trials))
    outcomes += [outcome for found in results for outcome in found or []]
    outcomes += [_patched(folder) for folder in folders if folder not in built]
    left_out = [model for (_, model), found in zip(trials, results, strict=True) if found is None]
    _tell(outcomes, [f"{m.parent.name}/{m.name}" for m in left_out])
    if not asked.only and not left_out:
        found = [
            asdict(outcome) for outcome in sorted(outcomes, key=lambda o: (o.case, o.model, o.platform, o.precision))
        ]
        figures = {"held": sum(o.holds for o in outcomes), "of": len(outcomes)}
        RESULT.write_text(json.dumps({"processor": machine(), **figures, "outcomes": found}, indent=1) + "\n")
    if not all(outcome.holds for outcome in outcomes):
        sys.exit(1)


def _build(case: Path, into: Path) -> str:
    """Run the case's own script; returns what went wrong, or nothing."""
    into.mkdir()
    done = subprocess.run(
        [sys.executable, case / "make_case.py", into], capture_output=True, text=True, timeout=_BUILD_S, check=False
    )
    return "" if not done.returncode else f"make_case.py failed: {done.stderr.strip().splitlines()[-1]}"


def _models(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in _MODELS)


def _interleaved(models: dict[Path, list[Path]]) -> Iterator[tuple[Path, Path]]:
    """The first model of each case, then the second of each, and so on."""
    for turn in range(max(map(len, models.values()), default=0)):
        for case, those in models.items():
            if turn < len(those):
                yield case, those[turn]


def _tried(case: str, model: Path, store: Path) -> list[Outcome]:
    """A model's outcomes."""
    began = time.monotonic()
    rule, name = _RULES.get(case, Rule()), model.stem

    def ended(holds: bool, said: str, platform: str = "", precision: str = "") -> Outcome:
        return Outcome(case, model.name, platform, precision, holds, said, round(time.monotonic() - began, 1))

    try:
        taken = intake.take_in(model, _data_of(model, rule), Store(store))
    except Exception as e:
        return [ended(_rightly_refused(rule, name, e), _said(e))]
    if not rule.taken:
        return [ended(False, "was taken in")]
    if wrong := _wrong_source(taken, model, rule):
        return [ended(False, wrong)]
    outcomes = [ended(True, f"taken in, task {taken.model.task}")]
    for platform, precision in itertools.product(Platform, _PRECISIONS):
        began = time.monotonic()
        try:
            holds, said = _measured(taken, platform, precision, Store(store), rule)
        except Exception as e:
            holds, said = _rightly_refused(rule, name, e, precision), _said(e)
        outcomes.append(ended(holds, said, platform.value, precision.value))
    return outcomes


def _data_of(model: Path, rule: Rule) -> DataSpec:
    """The data beside the model: of its own name, else the case's."""
    for name in (model.stem, "data"):
        if (spec := model.parent / f"{name}.yaml").exists():
            return load_data_spec(spec)
        for suffix in (".npz", ".csv"):
            if (file := model.parent / f"{name}{suffix}").exists():
                return DataSpec(path=file, target=rule.target, task=rule.asked)
    raise FileNotFoundError(f"no data beside {model}")


def _wrong_source(taken: Intake, model: Path, rule: Rule) -> str:
    """Where the source's answers as this project sees them are not those that the case's own script saw."""
    wanted = rule.task.get(model.stem)
    if wanted and taken.model.task is not wanted:
        return f"the task is {taken.model.task}, must be {wanted}"
    beside = model.with_suffix(".npy")
    if not beside.exists():
        return ""
    expected = np.load(beside)
    references = _references(taken.dataset)
    alike = [found for found in references if found.size == expected.size]
    if not alike:
        return f"the source's answers have shape {expected.shape}, here {[found.shape for found in references]}"
    apart = min(_relative(expected.reshape(found.shape), found) for found in alike)
    return "" if apart <= FLOAT32_LIMIT else f"the source's answers are {apart:.1e} off those of its own framework"


def _references(dataset: Dataset) -> list[np.ndarray]:
    with np.load(dataset.artifact.path, allow_pickle=False) as arrays:
        return [arrays[name] for name in arrays.files if name.startswith("test.reference.")]


def _relative(expected: np.ndarray, found: np.ndarray) -> float:
    return float(np.abs(expected - found).max() / (np.abs(expected).max() or 1))


def _measured(taken: Intake, platform: Platform, precision: Precision, store: Store, rule: Rule) -> tuple[bool, str]:
    made = export.export(taken.model, taken.dataset, platform, precision, store)
    is_judged = taken.model.task is not ModelTask.NONE
    if not is_judged:
        names = [tensor.name for tensor in made.outputs]
        file = made.artifact
        job = partial(deferred("benchmarks.cases:apart"), file.path, file.format, taken.dataset.artifact.path, names)
        running = {"what": f"running {file.path.name}", "frameworks": Frameworks.TORCH}
        relative, drop = run_in_child(job, returns=float, **running).value, None
    else:
        found = validate.evaluate(taken.model, taken.dataset, made)
        least_accuracy = rule.accuracy.get(taken.model.name, 0.0)
        if found.source_accuracy.value < least_accuracy:
            return False, f"the source's accuracy is {found.source_accuracy.value:.3f}, must be {least_accuracy}"
        relative, drop = found.parity.max_relative, found.drop.percent if found.drop else None
    said = f"{relative:.1e} off" + ("" if drop is None else f", loses {drop:.2f} points")
    if precision is Precision.FLOAT32:
        return relative <= FLOAT32_LIMIT, said
    if relative <= INT8_LIMIT or (drop is not None and drop <= INT8_DROP_PERCENT):
        return True, said
    if not is_judged:
        return not rule.is_int8_judged, f"{said}; not released: a deployment takes no model without answers"
    held_back = _held_back(taken, made)
    return bool(held_back) and not rule.is_int8_judged, f"{said}; {held_back or 'would be released'}"


def _held_back(taken: Intake, made: Exported) -> str:
    """Why a deployment with the default recipe releases float32 in place of this file; empty where it does not."""
    limit = load_recipe(DeploymentParameters.model_fields["recipe"].default).max_accuracy_drop_percent
    found = validate.evaluate(taken.model, taken.dataset, made, "validation")
    fault = accuracy_fault(found, found, limit)
    return f"not released: {fault}" if fault else ""


def apart(file: Path, form: Format, dataset: Path, outputs: list[str]) -> float:
    """The child's side: how far the worst output of a file is off the source's, of its largest number."""
    with np.load(dataset, allow_pickle=False) as arrays:
        rows = {name.removeprefix("test.x."): arrays[name] for name in arrays.files if name.startswith("test.x.")}
        expected = [arrays[f"test.reference.{name}"] for name in outputs]
    found = outputs_of(file, form, rows, outputs)
    return max(_relative(one, found[name]) for one, name in zip(expected, outputs, strict=True))


def _rightly_refused(rule: Rule, model: str, error: Exception, precision: Precision | None = None) -> bool:
    words = [rule.refused.get(model, rule.refused.get("*")), _NO_BENEFIT if precision is Precision.INT8 else None]
    return isinstance(error, EdgewrightError) and any(one and re.search(one, str(error)) for one in words)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _patched(case: Path) -> Outcome:
    """The pair of files whose bsdiff patch the device refused."""
    began = time.monotonic()
    base, new = ((case / name).read_bytes() for name in ("base.bin", "new.bin"))
    try:
        patch = build_patch("report.json", base, new)
    except Exception as e:
        holds, said = False, _said(e)
    else:
        holds, said = True, f"{patch.codec}, {len(patch.content):,} bytes" if patch else "sent whole"
    return Outcome(case.name, "base.bin, new.bin", "", "", holds, said, round(time.monotonic() - began, 1))


def _tell(outcomes: list[Outcome], left_out: list[str]) -> None:
    """A line a model: how many of its files hold, what was refused or wrong, seconds."""
    table = Table("case", "model", "holds", "outcome", "seconds")
    for case, model in dict.fromkeys((outcome.case, outcome.model) for outcome in outcomes):
        mine = [outcome for outcome in outcomes if (outcome.case, outcome.model) == (case, model)]
        wrong = [f"{o.platform} {o.precision}: {o.said}".strip(" :") for o in mine if not o.holds]
        refused = [
            f"{o.platform} {o.precision} refused: {o.said}".strip() for o in mine if o.holds and "Error: " in o.said
        ]
        said = "\n".join([*wrong, *refused]) or mine[0].said
        table.add_row(
            case, model, "yes" if not wrong else "NO", escape(said), f"{sum(outcome.seconds for outcome in mine):.0f}"
        )
    console = Console(width=160)
    console.print(table)
    console.print(f"{sum(o.holds for o in outcomes)} of {len(outcomes)} hold.")
    if left_out:
        console.print(escape("Not run, for want of time: " + ", ".join(left_out)), soft_wrap=True)


if __name__ == "__main__":
    main()
