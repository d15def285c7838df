"""The plan of the one program that the stand-in runs: a constant, a linear operator, a loop around a softmax."""

from dataclasses import dataclass
from pathlib import Path

from .. import ComputeUnit
from . import utils
from .compute_device import MLCPUComputeDevice, MLNeuralEngineComputeDevice


@dataclass(frozen=True)
class MLModelStructureProgramNamedValueType:
    name: str
    type: object


@dataclass(frozen=True)
class MLModelStructureProgramOperation:
    inputs: dict
    operator_name: str
    outputs: list
    blocks: list
    __proxy__: object


@dataclass(frozen=True)
class MLModelStructureProgramBlock:
    inputs: list
    operations: list
    output_names: list


@dataclass(frozen=True)
class MLModelStructureProgramFunction:
    inputs: list
    block: MLModelStructureProgramBlock


@dataclass(frozen=True)
class MLModelStructureProgram:
    functions: dict


@dataclass(frozen=True)
class MLModelStructure:
    neuralnetwork: object
    program: object
    pipeline: object


@dataclass(frozen=True)
class MLComputePlanDeviceUsage:
    preferred_compute_device: object
    supported_compute_devices: list


@dataclass(frozen=True)
class MLComputePlanCost:
    weight: float


def _operation(name, result, *nested):
    blocks = [MLModelStructureProgramBlock([], list(nested), [])] if nested else []
    return MLModelStructureProgramOperation(
        {}, name, [MLModelStructureProgramNamedValueType(result, None)], blocks, None
    )


_OPERATIONS = [
    _operation("const", "w"),
    _operation("ios17.linear", "logits"),
    _operation("while_loop", "turns", _operation("ios17.softmax", "scores")),
]
_WEIGHTS = {"linear": 0.75, "softmax": 0.25}


class MLComputePlan:
    def __init__(self, proxy):
        self._units = proxy

    @property
    def model_structure(self):
        block = MLModelStructureProgramBlock([], _OPERATIONS, ["scores"])
        program = MLModelStructureProgram({"main": MLModelStructureProgramFunction([], block)})
        return MLModelStructure(None, program, None)

    def get_compute_device_usage_for_mlprogram_operation(self, operation):
        if operation.operator_name.endswith("linear"):
            allowed = self._units is not ComputeUnit.CPU_AND_GPU
            return MLComputePlanDeviceUsage(MLNeuralEngineComputeDevice() if allowed else MLCPUComputeDevice(), [])
        if operation.operator_name.endswith("softmax"):
            return MLComputePlanDeviceUsage(MLCPUComputeDevice(), [])
        return None

    def get_estimated_cost_for_mlprogram_operation(self, operation):
        weight = _WEIGHTS.get(operation.operator_name.rpartition(".")[2])
        return None if weight is None else MLComputePlanCost(weight)

    @classmethod
    def load_from_path(cls, path, compute_units=ComputeUnit.ALL):
        if not (Path(path) / utils.WEIGHTS).is_file() or not path.endswith(".mlmodelc"):
            raise SystemExit("the real one ends the process here")
        return cls(compute_units)
