"""Run a *saved* `.mlpackage` without Core ML: its program read back from disk and its operators computed by torch.

Core ML predicts on a Mac only, no library computes its programs elsewhere, and a wrong conversion is the worst defect;
so this is written by hand, and shares nothing with coremltools' converter but the protobuf definitions. Half precision
is computed as float32 with each operator's result rounded to half, which is the accuracy that Apple's units reach or
exceed in their accumulators.
Imports torch: call it in a child process.
"""

import math
from pathlib import Path

import numpy as np
import torch

from edgewright.errors import ConversionError, InputError, UnsupportedError
from edgewright.export.mil_operators import OPERATORS, Arguments, MilOperand
from edgewright.export.mil_program import Constant, Operation, Program, TensorDeclaration, Variable, read_program
from edgewright.export.pixels import as_pixels
from edgewright.failures import one_line

__all__ = ["Evaluator", "evaluate"]

# What torch lacks, or computes little on, is held in a type that has all of its values.
_DTYPES = {
    "FLOAT16": torch.float16, "FLOAT32": torch.float32, "FLOAT64": torch.float64,
    "INT8": torch.int8, "INT16": torch.int16, "INT32": torch.int32, "INT64": torch.int64,
    "INT4": torch.int8, "UINT1": torch.uint8, "UINT2": torch.uint8, "UINT3": torch.uint8, "UINT4": torch.uint8,
    "UINT6": torch.uint8, "UINT8": torch.uint8, "UINT16": torch.int32, "UINT32": torch.int64, "BOOL": torch.bool,
}  # fmt: skip


def evaluate(path: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs of a saved package for these inputs, by name.

    Args:
        path: the `.mlpackage` folder.
        inputs: {input: (N, ...)} where the package declares a batch of 1; each row is run by itself. Inputs typed as
            images are given as the source model takes them, and turned into the pixels that an app would give.

    Returns:
        {output: (N, ...)} in the dtype that the package declares.

    Raises:
        UnsupportedError: an operator or a type that is not known here; it is named.
        InputError: an input is missing, unknown, or of another shape.
        ConversionError: the program contradicts itself or its weight file.
    """
    return Evaluator(path).run(inputs)


class Evaluator:
    """A package, read once, its constants decoded."""

    def __init__(self, path: Path) -> None:
        self.program: Program = read_program(path)
        unknown = sorted({op.kind for op in self.program.operations} - set(OPERATORS))
        if unknown:
            raise UnsupportedError(
                f"the Core ML operator '{unknown[0]}' is not known to the evaluator: parity not checked"
            )
        self.constants: dict[str, MilOperand] = {}
        self.steps: list[Operation] = []
        for operation in self.program.operations:
            if operation.kind == "const" or operation.kind.startswith("constexpr_"):
                self.constants.update(_results(operation, self.constants))
            else:
                self.steps.append(operation)
        given = {*self.constants, *(d.name for d in self.program.inputs)}
        given |= {result.name for step in self.steps for result in step.results}
        if missing := sorted(set(self.program.outputs.values()) - given):
            raise ConversionError(f"the Core ML program's output '{missing[0]}' is given by no operator")
        self._last_used = self._last_uses()
        # Widened once: a half-precision weight would else be converted anew for every row.
        self.constants = {name: _operand(Variable(name), self.constants) for name in self.constants}

    def _last_uses(self) -> list[set[str]]:
        """For each step the values, constants and outputs left out, that no later step reads."""
        # Constants stay for the next row, outputs until the end.
        needed = {*self.constants, *self.program.outputs.values()}
        last: list[set[str]] = []
        for operation in reversed(self.steps):
            read = {item.name for items in operation.operands.values() for item in items if isinstance(item, Variable)}
            last.append((read | {result.name for result in operation.results}) - needed)
            needed |= read
        return last[::-1]

    @staticmethod
    def decode(operation: Operation, known: dict[str, MilOperand]) -> torch.Tensor:
        """The last result of a compressed constant; its results join those that are ``known``."""
        known.update(_results(operation, known))
        value = known[operation.results[-1].name]
        if isinstance(value, str):
            raise TypeError(f"'{operation.results[-1].name}' is a text")
        return value

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs for N rows; see `evaluate`."""
        rows = self._entries(inputs)
        answers = [self._row({name: column[i] for name, column in rows.items()}) for i in range(_count(rows))]
        outputs = self.program.outputs
        return {name: np.concatenate([a[value].numpy() for a in answers]) for name, value in outputs.items()}

    def entered(self, row: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        """The values that one row's inputs (1, ...) are in the program."""
        return {name: column[0] for name, column in self._entries(row).items()}

    @staticmethod
    def computed(operation: Operation, values: dict[str, MilOperand]) -> dict[str, MilOperand]:
        """What one of the steps gives on these values, constants among them."""
        return _results(operation, values)

    def _entries(self, inputs: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        images = {name: of for name, of in self.program.pixels.items() if name in inputs}
        pixels = {name: as_pixels(inputs[name], of.scale, of.mean).astype(np.float32) for name, of in images.items()}
        return _rows(self.program.inputs, {**inputs, **pixels})

    def _row(self, row: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The outputs of one run; a value is dropped after its last use."""
        values: dict[str, MilOperand] = {**self.constants, **row}
        with torch.no_grad():
            for operation, done in zip(self.steps, self._last_used, strict=True):
                values.update(_results(operation, values))
                for name in done:
                    values.pop(name, None)
        outputs = {name: values[name] for name in self.program.outputs.values()}
        return {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)}


def _rows(declared: tuple[TensorDeclaration, ...], inputs: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Each input as (rows, *declared shape) in the declared dtype."""
    names = [d.name for d in declared]
    if sorted(names) != sorted(inputs):
        raise InputError(f"the package takes the inputs {names}, not {sorted(inputs)}")
    rows = {}
    for d in declared:
        column = torch.from_numpy(np.ascontiguousarray(inputs[d.name])).to(_dtype(d))
        # A free shape is that of the column: all of it is one run.
        shape = d.shape if d.shape is not None else tuple(column.shape)
        if not _fits(tuple(column.shape), shape):
            raise InputError(f"input '{d.name}' has shape {tuple(column.shape)}; the package takes {shape}")
        rows[d.name] = column.reshape(-1, *shape)
    return rows


def _fits(column: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a column is rows of a declared shape, which may hold some of them; axes of one place tell nothing."""
    of_row, whole, of_batch = ([n for n in sizes if n != 1] for sizes in (column[1:], shape, shape[1:]))
    size = math.prod(shape)
    return of_row in (whole, of_batch) and (math.prod(column) % size == 0 if size else math.prod(column) == 0)


def _count(rows: dict[str, torch.Tensor]) -> int:
    counts = {len(column) for column in rows.values()}
    if len(counts) != 1:
        raise InputError(f"the inputs have different numbers of rows: {sorted(counts)}")
    return counts.pop()


def _results(operation: Operation, values: dict[str, MilOperand]) -> dict[str, MilOperand]:
    operands = {name: [_operand(item, values) for item in items] for name, items in operation.operands.items()}
    # A text, as the mode of a padding, is not computed with.
    if operation.kind == "const" and isinstance(operands["val"][0], str):
        return {operation.results[0].name: operands["val"][0]}
    try:
        given = OPERATORS[operation.kind](Arguments(operands, len(operation.results)))
    # What torch raises for operands that do not fit is the program's fault here.
    except (KeyError, RuntimeError, TypeError, ValueError, IndexError) as e:
        cause = one_line(e, 200)
        raise ConversionError(f"Core ML operator '{operation.kind}' at '{operation.results[0].name}': {cause}") from e
    tensors = given if isinstance(given, list) else [given]
    return {
        declared.name: _as_declared(tensor, declared, operation.kind)
        for declared, tensor in zip(operation.results, tensors, strict=True)
    }


def _operand(item: Variable | Constant, values: dict[str, MilOperand]) -> MilOperand:
    if isinstance(item, Variable) and item.name not in values:
        raise ConversionError(f"the Core ML program reads '{item.name}', which no operator before it gives")
    value = values[item.name] if isinstance(item, Variable) else item
    if isinstance(value, np.ndarray):
        # torch has few operations for these two.
        wide = {"uint16": np.int32, "uint32": np.int64}.get(value.dtype.name)
        value = torch.from_numpy(np.array(value, dtype=wide) if wide else np.array(value))
    if isinstance(value, torch.Tensor) and value.dtype is torch.float16:
        return value.float()
    return value


def _as_declared(tensor: torch.Tensor, declared: TensorDeclaration, kind: str) -> torch.Tensor:
    if declared.shape is not None and tuple(tensor.shape) != declared.shape:
        raise ConversionError(
            f"Core ML operator '{kind}' at '{declared.name}': gives {tuple(tensor.shape)}, declared is {declared.shape}"
        )
    # Rounded to what is declared: it is here that half precision loses.
    return tensor.to(_dtype(declared))


def _dtype(declared: TensorDeclaration) -> torch.dtype:
    if declared.dtype not in _DTYPES:
        raise UnsupportedError(f"'{declared.name}' is of the Core ML type {declared.dtype}, which is not evaluated")
    return _DTYPES[declared.dtype]
