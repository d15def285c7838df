"""An `.mlpackage` operator by operator, by our own evaluator."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgewright.export.diagnosis.computation import (
    Computation,
    Operator,
    Quantization,
    moving,
    narrowest,
    require_inputs,
)
from edgewright.export.diagnosis.orientation import oriented
from edgewright.export.mil_evaluator import Evaluator
from edgewright.export.mil_program import Operation, Variable
from edgewright.export.runs import Arrays

__all__ = ["MilComputation"]

_SHAPES = {"reshape", "squeeze", "expand_dims", "cast", "flatten2d", "quantize", "dequantize"}
_ORDERS = {"transpose"}
_STORED = {"constexpr_affine_dequantize": "int8", "constexpr_lut_to_dense": "int4"}
_STORED |= {"constexpr_blockwise_shift_scale": "int8"}


class MilComputation(Computation):
    """See `Computation`."""

    def __init__(self, path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self._evaluator = Evaluator(path)
        program = self._evaluator.program
        require_inputs(path, [declared.name for declared in program.inputs], inputs)
        given = program.outputs
        names = outputs if set(outputs) <= set(given) else list(given)
        self.outputs = [given[name] for name in names]
        self.quantized: dict[str, Quantization] = {}
        self._known: dict[str, Any] = dict(self._evaluator.constants)
        self._narrow = self._dtypes_of_constants()
        self._of: dict[str, Operation] = {}
        self.operators = []
        for step in self._evaluator.steps:
            operator = self._operator(step)
            self._of[operator.name] = step
            if operator.reads:
                self.operators.append(operator)
            else:
                # What no input decides is computed once, and a constant to all that follows.
                self._known |= self._evaluator.computed(step, self._known)
                self._narrow |= dict.fromkeys(operator.gives, operator.dtype)

    def _dtypes_of_constants(self) -> dict[str, str]:
        dtypes: dict[str, str] = {}
        for operation in self._evaluator.program.operations:
            for result in operation.results:
                dtypes[result.name] = _STORED.get(operation.kind, result.dtype.lower())
        return {name: dtype for name, dtype in dtypes.items() if name in self._known}

    def _operator(self, step: Operation) -> Operator:
        named = [i.name for items in step.operands.values() for i in items if isinstance(i, Variable)]
        reads = tuple(dict.fromkeys(name for name in named if name not in self._known))
        weights = [self._narrow.get(name, "") for name in named if name in self._known]
        results = [result.dtype.lower() for result in step.results if result.dtype.startswith("FLOAT")]
        return Operator(
            kind=step.kind,
            reads=reads,
            gives=tuple(result.name for result in step.results),
            dtype=narrowest([*weights, *results]),
            moves=moving(step.kind, _SHAPES, _ORDERS),
        )

    def entered(self, row: Arrays) -> dict[str, Any]:
        """See `Computation`."""
        declared = self._evaluator.program.inputs
        names = [d.name for d in declared]
        # A file of others may call its inputs otherwise: they are taken in their order.
        by_name = row if set(row) == set(names) else dict(zip(names, row.values(), strict=True))
        shaped = {d.name: oriented(by_name[d.name], d.shape or by_name[d.name].shape) for d in declared}
        return dict(self._evaluator.entered(shaped))

    def computed(self, operator: Operator, values: Mapping[str, Any]) -> dict[str, Any]:
        """See `Computation`."""
        given = {**self._known, **{name: values[name] for name in operator.reads}}
        with torch.no_grad():
            return dict(self._evaluator.computed(self._of[operator.name], given))

    def whole(self, row: Arrays) -> list[np.ndarray]:
        """See `Computation`."""
        # Core ML runs on a Mac alone, so the whole is the operators in a row: its fusions are not seen.
        values = {**self._known, **self.entered(row)}
        for operator in self.operators:
            values |= self.computed(operator, values)
        return [real for name in self.outputs if (real := self.real(name, values[name])) is not None]

    def real(self, name: str, value: Any) -> np.ndarray | None:
        """See `Computation`."""
        if not isinstance(value, torch.Tensor):
            return None
        array: np.ndarray = value.numpy()
        return array.astype(np.float32) if array.dtype == np.float16 else array

    def stored(self, name: str, real: np.ndarray, like: Any) -> Any:
        """See `Computation`."""
        return torch.from_numpy(np.ascontiguousarray(real)).to(like.dtype)
