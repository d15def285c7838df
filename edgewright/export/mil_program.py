"""A saved ML program as plain values: operations in order, with their constants read from the weight file.

The layout of ``weight.bin`` is that of coremltools' ``MILBlob/Blob/StorageFormat.hpp``: a header of 64 bytes, then for
each tensor a record of 64 bytes (sentinel, type, size, offset of the data), each aligned to 64 bytes.
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.errors import ConversionError, UnsupportedError
from edgewright.export import mlpackage
from edgewright.export.packed_bits import unpacked
from edgewright.failures import one_line

__all__ = [
    "CLASSES_NOTE",
    "MEAN_NOTE",
    "SCALE_NOTE",
    "SCORES_NOTE",
    "Constant",
    "Operation",
    "Pixels",
    "Program",
    "TensorDeclaration",
    "Variable",
    "pixels_of",
    "read_program",
]

# Keys of the package's own metadata, written by `edgewright.export.coreml`.
SCORES_NOTE, SCALE_NOTE, MEAN_NOTE = "edgewright.scores", "edgewright.pixel_scale", "edgewright.pixel_mean"
CLASSES_NOTE = "edgewright.classes"

Constant = np.ndarray | str
# Opens each tensor's record: an offset that leads elsewhere is seen by its absence.
_SENTINEL = 0xDEADBEEF
_BESIDE_THE_MODEL = "@model_path/"  # begins the weight file's name in a program
# The blob's own type codes, which differ from those of the program.
_BLOB_DTYPES = {1: "f2", 2: "f4", 3: "u1", 4: "i1", 6: "i2", 7: "u2", 14: "i4", 15: "u4"}
# Types of less than a byte, from iOS 18 on: their code in the blob, and how many bits an element takes.
_PACKED = {"INT4": (8, 4), "UINT1": (9, 1), "UINT2": (10, 2), "UINT4": (11, 4), "UINT3": (12, 3), "UINT6": (13, 6)}
_DTYPES = {
    "FLOAT16": "f2", "FLOAT32": "f4", "FLOAT64": "f8", "INT8": "i1", "INT16": "i2", "INT32": "i4", "INT64": "i8",
    "UINT8": "u1", "UINT16": "u2", "UINT32": "u4", "UINT64": "u8", "BOOL": "?",
}  # fmt: skip


@dataclass(frozen=True)
class Variable:
    """An operand that an earlier operation, or an input, gives."""

    name: str


@dataclass(frozen=True)
class TensorDeclaration:
    """A result as the program declares it; ``shape`` is None where an axis is free."""

    name: str
    dtype: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Operation:
    """One operation: each parameter is a list of operands, of one element unless the parameter is a tuple.

    ``stored_bytes`` is what its constants take in the file.
    """

    kind: str
    operands: dict[str, list[Variable | Constant]]
    results: tuple[TensorDeclaration, ...]
    stored_bytes: int = 0


@dataclass(frozen=True)
class Pixels:
    """An input typed as an image: the app gives 8-bit pixels, the source model took ``(pixel - mean) * scale``."""

    scale: float
    mean: float


@dataclass(frozen=True)
class Program:
    """The main function: what it takes, what it does, what it gives.

    ``outputs`` names a result of the program for each output of the model; a classifier's scores, which Core ML gives
    as a dictionary by label, stand under the name that they have in the source model.
    """

    inputs: tuple[TensorDeclaration, ...]
    operations: tuple[Operation, ...]
    outputs: dict[str, str]
    pixels: dict[str, Pixels]


def read_program(path: Path) -> Program:
    """Read the program and the weights of a saved package.

    Raises:
        InputError: not a Core ML package, or not an ML program.
        ConversionError: the weight file is shorter than the program says, or disagrees with it.
        UnsupportedError: a constant of a type, or a nested block, that is not read.
    """
    specification = mlpackage.load(path)
    block = mlpackage.program_of(specification, path)
    function = specification.mlProgram.functions["main"]
    reader = _Reader(path)
    notes = specification.description.metadata.userDefined
    # A classifier ends in `classify`, which gives a label and a dictionary; the tensor that it reads is what the
    # source model gives, so that stands for the two, and the operator itself is never evaluated.
    classifier = next((operation for operation in block.operations if operation.type == "classify"), None)
    outputs = {name: name for name in block.outputs}
    if classifier is not None:
        scores = classifier.inputs["probabilities"].arguments[0].name
        own = {result.name for result in classifier.outputs}
        outputs = {name: name for name in outputs if name not in own} | {notes.get(SCORES_NOTE, scores): scores}
    return Program(
        inputs=tuple(_declared(value) for value in function.inputs),
        operations=tuple(reader.operation(o) for o in block.operations if o.type != "classify"),
        outputs=outputs,
        pixels=pixels_of(specification.description),
    )


def pixels_of(description: Any) -> dict[str, Pixels]:
    """The inputs that a model's description types as images, and what the source model made of their pixels.

    Raises:
        UnsupportedError: the package does not say it.
    """
    notes = description.metadata.userDefined
    images = [feature.name for feature in description.input if feature.type.WhichOneof("Type") == "imageType"]
    if not images:
        return {}
    if SCALE_NOTE not in notes or MEAN_NOTE not in notes:
        raise UnsupportedError(f"the image input '{images[0]}' does not say how its pixels become the model's input")
    return dict.fromkeys(images, Pixels(float(notes[SCALE_NOTE]), float(notes[MEAN_NOTE])))


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = mlpackage.model_file(path).parent
        self._bytes = 0
        self._weights_by_name: dict[str, np.ndarray] = {}

    def _weights(self, name: str) -> np.ndarray:
        if name not in self._weights_by_name:
            file = self._folder / name.removeprefix(_BESIDE_THE_MODEL)
            if not file.is_file() or not file.resolve().is_relative_to(self._path.resolve()):
                raise ConversionError(f"{self._path}: the weight file that the program refers to ({name}) is missing")
            # Mapped: of gigabytes, only the tensor being read is in memory. An empty file cannot be mapped.
            is_empty = not file.stat().st_size
            self._weights_by_name[name] = np.empty(0, np.uint8) if is_empty else np.memmap(file, mode="r")
        return self._weights_by_name[name]

    def operation(self, operation: Any) -> Operation:
        if operation.blocks:
            raise UnsupportedError(
                f"the Core ML operator '{operation.type}' holds nested blocks, which are not evaluated"
            )
        self._bytes = 0
        # A constant stands in the attributes, an operand in the inputs.
        operands = {
            name: [Variable(item.name) if item.WhichOneof("binding") == "name" else self.value(item.value)
                   for item in argument.arguments]
            for name, argument in operation.inputs.items()
        }  # fmt: skip
        # Each operation bears its own name as an attribute: a text that no operator computes with.
        operands |= {key: [self.value(value)] for key, value in operation.attributes.items() if key != "name"}
        results = tuple(_declared(result) for result in operation.outputs)
        return Operation(operation.type, operands, results, self._bytes)

    def value(self, value: Any) -> Constant:
        declared = _tensor_type(value.type)
        try:
            return self._stored(value, declared)
        # By numpy: fewer bytes or more than the shape takes, or numbers that the type does not hold.
        except (ValueError, IndexError, TypeError, OverflowError) as e:
            raise ConversionError(
                f"{self._path}: a constant of type {declared.dtype} and shape {declared.shape} is not what is stored"
                f" for it: {one_line(e, 200)}"
            ) from e

    def _stored(self, value: Any, declared: TensorDeclaration) -> Constant:
        if value.WhichOneof("value") == "blobFileValue":
            return self._blob(value.blobFileValue, declared)
        kind = value.immediateValue.WhichOneof("value")
        # By MIL.proto, the others are tuples, lists and dictionaries.
        if kind != "tensor":
            raise UnsupportedError(f"a Core ML constant of kind '{kind}' is not evaluated")
        tensor = value.immediateValue.tensor
        field = tensor.WhichOneof("value")
        if field == "strings":
            return str(tensor.strings.values[0])
        # Types narrower than the protobuf's own numbers are stored as little-endian bytes.
        raw = tensor.bytes.values if field == "bytes" else getattr(tensor, field).values
        if declared.dtype in _PACKED and field == "bytes":
            self._bytes += len(raw)
            return _unpacked(raw, declared)
        # Types of less than a byte that stand here as numbers, not as packed bytes, take a byte each.
        dtype = np.dtype(_DTYPES.get(declared.dtype, "i1" if declared.dtype == "INT4" else "u1"))
        flat = np.frombuffer(raw, dtype) if field == "bytes" else np.array(raw, dtype)
        self._bytes += flat.nbytes
        return flat.reshape(declared.shape or ())

    def _blob(self, reference: Any, declared: TensorDeclaration) -> np.ndarray:
        weights, at = self._weights(reference.fileName), reference.offset
        # Padded: a record that the file's end cuts off is refused below, not by an error of struct.
        sentinel, code, size, offset = struct.unpack_from("<IIQQ", weights[at : at + 24].tobytes().ljust(24, b"\0"))
        if sentinel != _SENTINEL or offset + size > len(weights):
            raise ConversionError(
                f"{self._path}: the weight file of {len(weights)} bytes has no tensor '{declared.name}' at {at}"
            )
        self._bytes += size
        if declared.dtype in _PACKED and code == _PACKED[declared.dtype][0]:
            return _unpacked(weights[offset : offset + size].tobytes(), declared)
        # The program and the weight file each tell the type; read by the wrong one, the numbers would be plausible.
        if code not in _BLOB_DTYPES or _BLOB_DTYPES[code] != _DTYPES.get(declared.dtype):
            raise ConversionError(f"{self._path}: blob type {code} at {at} is not the program's {declared.dtype}")
        # A copy, so that no array holds the mapping of the file.
        return np.frombuffer(weights[offset : offset + size].tobytes(), _BLOB_DTYPES[code]).reshape(
            declared.shape or ()
        )


def _unpacked(raw: bytes, declared: TensorDeclaration) -> np.ndarray:
    """Elements of less than a byte."""
    count = math.prod(declared.shape or ())
    whole: np.ndarray = unpacked(np.frombuffer(raw, np.uint8), _PACKED[declared.dtype][1])[:count]
    if declared.dtype == "INT4":
        whole = (whole.astype(np.int8) ^ 8) - 8  # two's complement
    shaped: np.ndarray = whole.reshape(declared.shape or ())
    return shaped


def _declared(value: Any) -> TensorDeclaration:
    declared = _tensor_type(value.type)
    return TensorDeclaration(value.name, declared.dtype, declared.shape)


def _tensor_type(kind: Any) -> TensorDeclaration:
    if kind.WhichOneof("type") != "tensorType":
        raise UnsupportedError(f"a Core ML value of type '{kind.WhichOneof('type')}' is not evaluated")
    types = mlpackage.mil().DataType
    code = kind.tensorType.dataType
    if code not in types.values():
        raise UnsupportedError(f"Core ML values of type {code} are not evaluated: coremltools here knows none such")
    dtype = types.Name(code)
    if dtype not in _DTYPES and dtype not in _PACKED and dtype != "STRING":
        raise UnsupportedError(f"Core ML values of type {dtype} are not evaluated")
    sizes = [d.constant.size if d.WhichOneof("dimension") == "constant" else None for d in kind.tensorType.dimensions]
    return TensorDeclaration("", dtype, None if None in sizes else tuple(int(n) for n in sizes if n is not None))
