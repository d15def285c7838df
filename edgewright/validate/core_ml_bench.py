"""The bench of `edgewright_runtime` with Core ML in the place of the device's runtimes; run as a child process.

``python -m edgewright.validate.core_ml_bench UNITS --spec FILE --out FILE``; UNITS is a name of
`coremltools.ComputeUnit`. Beside the bench's own tasks there is ``compute_plan``: which unit Core ML plans for each
operator, and what share of the work it estimates it to be.
"""

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from edgewright.measurement import ComputePlan, PlannedOperator
from edgewright.validate.core_ml import CoreMLModel, CoreMLPackage
from edgewright.validate.core_ml_units import UNITS, ComputeUnits
from edgewright_runtime.bench.answer import BenchAnswer, BenchFigures, ColdFigures, OutputFigures
from edgewright_runtime.bench.run import BenchModel, BenchSpec, carried_out, cold_answer, main, write_arrays
from edgewright_runtime.bench.timing import sustained, warm
from edgewright_runtime.errors import BackendUnavailableError, InputRejectedError

__all__ = ["CoreMLBench", "planned"]

_SHOWN_OPERATORS = 10
_DEVICES = {
    "MLCPUComputeDevice": "CPU",
    "MLGPUComputeDevice": "GPU",
    "MLNeuralEngineComputeDevice": "Neural Engine",
}

Arrays = Mapping[str, np.ndarray]
Feeds = list[dict[str, Any]]  # of single inferences: arrays, or images


class CoreMLBench:
    """The bench's tasks; each package is compiled once into ``scratch``, and loaded as often as a task asks."""

    def __init__(self, units: ComputeUnits, scratch: Path) -> None:
        self._units = units
        self._scratch = scratch
        self._packages: dict[str, CoreMLPackage] = {}

    def __call__(self, spec: BenchSpec) -> BenchAnswer[BenchFigures | ComputePlan]:
        """Do one task.

        Raises:
            EdgeRuntimeError: Core ML refuses the package or the rows, or has no answer to this task.
        """
        tasks: dict[str, Callable[[BenchSpec, Arrays], BenchFigures | ComputePlan]] = {
            "outputs": self._outputs,
            "cold": self._cold,
            "warm": lambda spec, rows: warm(spec, rows, self._open),
            "sustained": lambda spec, rows: sustained(spec, rows, self._open),
            "compute_plan": self._compute_plan,
        }
        if spec.task not in tasks:
            raise BackendUnavailableError(f"Core ML gives no answer to '{spec.task}'")
        return carried_out(tasks[spec.task], spec)

    def _outputs(self, spec: BenchSpec, rows: Arrays) -> OutputFigures:
        file = spec.models[0]
        model = self._package(file).load(self._units)
        each = [model.scores(model.infer(feed)) for feed in model.feeds(rows, file.input_names)]
        missing = set(file.output_names) - set(each[0])
        if missing:
            raise InputRejectedError(f"the model's outputs are {sorted(each[0])}, asked for was {sorted(missing)}")
        names = file.output_names or tuple(each[0])
        collected = {name: np.concatenate([row[name] for row in each]).astype(np.float64) for name in names}
        write_arrays(Path(spec.outputs), collected)
        return OutputFigures(model.name, model.version, len(each))

    def _cold(self, spec: BenchSpec, rows: Arrays) -> ColdFigures:
        file = spec.models[0]
        package = self._package(file)  # what importing coremltools takes is not counted against the model
        return cold_answer(
            lambda: package.load(self._units), lambda model: model.feeds(rows, file.input_names, limit=1)[0]
        )

    def _compute_plan(self, spec: BenchSpec, rows: Arrays) -> ComputePlan:
        package = self._package(spec.models[0])
        return planned(package.plan(self._units), UNITS[self._units], package.path.name)

    def _open(self, file: BenchModel, spec: BenchSpec, rows: Arrays, limit: int) -> tuple[CoreMLModel, Feeds]:
        model = self._package(file).load(self._units)
        return model, model.feeds(rows, file.input_names, limit)

    def _package(self, file: BenchModel) -> CoreMLPackage:
        """Compiled at its first use: a baseline that is loaded twice is compiled once."""
        if file.path not in self._packages:
            folder = self._scratch / str(len(self._packages))
            folder.mkdir()
            self._packages[file.path] = CoreMLPackage(Path(file.path), folder)
        return self._packages[file.path]


def planned(plan: Any, units: str, name: str) -> ComputePlan:
    """Operators by the device that Core ML prefers, and the costliest ten by their estimated share of the work.

    An operator without a device is a constant, or one of which Core ML says nothing; it is counted apart.

    Raises:
        BackendUnavailableError: Core ML gives no plan for this kind of model, or plans no operator of it.
    """
    program = plan.model_structure.program
    if program is None:
        raise BackendUnavailableError(f"{name} is not an ML program: its compute plan is not read")
    by_device: Counter[str] = Counter()
    costs, silent = [], 0
    for operation in _operations(program.functions["main"].block):
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
        if usage is None:
            # A constant is not an operator to be planned.
            silent += _kind(operation) != "const"
            continue
        device = _DEVICES.get(type(usage.preferred_compute_device).__name__, "another device")
        by_device[device] += 1
        cost = plan.get_estimated_cost_for_mlprogram_operation(operation)
        if cost is not None:
            result = operation.outputs[0].name if operation.outputs else ""
            costs.append(PlannedOperator(_kind(operation), result, device, share=cost.weight))
    if not by_device:
        raise BackendUnavailableError(f"Core ML plans none of the {silent} operators of {name}")
    costliest = sorted(costs, key=lambda operator: -operator.share)[:_SHOWN_OPERATORS]
    return ComputePlan(units, tuple(by_device.most_common()), silent, tuple(costliest))


def _operations(block: Any) -> Iterator[Any]:
    """Those of nested blocks (loops, conditions) too."""
    for operation in block.operations:
        yield operation
        for nested in operation.blocks:
            yield from _operations(nested)


def _kind(operation: Any) -> str:
    """``ios17.conv`` is the operator conv of opset iOS 17."""
    return str(operation.operator_name).rpartition(".")[2]


def _run(argv: Sequence[str]) -> int:
    units, *rest = argv
    if units not in get_args(ComputeUnits):
        sys.exit(f"unknown compute units '{units}'; known: {', '.join(get_args(ComputeUnits))}")
    with tempfile.TemporaryDirectory() as scratch:
        return main(rest, CoreMLBench(units, Path(scratch)))  # type: ignore[arg-type]  # checked above


if __name__ == "__main__":
    sys.exit(_run(sys.argv[1:]))
