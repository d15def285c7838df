"""A `.tflite` file operator by operator: each is a file of its own, run by LiteRT's plain kernels."""

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from edgewright.errors import ConversionError, UnsupportedError
from edgewright.export import tflite
from edgewright.export.diagnosis.computation import (
    Computation,
    Operator,
    Quantization,
    moving,
    narrowest,
    require_inputs,
)
from edgewright.export.diagnosis.orientation import oriented
from edgewright.export.runs import Arrays
from edgewright.failures import one_line

__all__ = ["TfliteComputation"]

_SHAPES = {"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "CAST", "BROADCAST_TO", "DEQUANTIZE", "QUANTIZE"}
_ORDERS = {"TRANSPOSE"}
_ACTIVATIONS = {
    code: name for name, code in vars(schema.ActivationFunctionType).items() if not name.startswith("_") and code
}
_ACTIVATE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "RELU": lambda x: np.maximum(x, 0),
    "RELU_N1_TO_1": lambda x: np.clip(x, -1, 1),
    "RELU6": lambda x: np.clip(x, 0, 6),
    "TANH": np.tanh,
    "SIGN_BIT": np.signbit,
}


class TfliteComputation(Computation):
    """See `Computation`. An activation that a float operator has built in is an operator of its own here, so that a
    wrong one is told from a wrong convolution."""

    def __init__(self, path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self._path, self._model = path, tflite.load(path)
        signature = (self._model.signatureDefs or [None])[0]
        # Others may be the bodies of loops, or what composites stand for.
        self._graph = self._model.subgraphs[signature.subgraphIndex if signature is not None else 0]
        # The format does not ask for names to be unique; here values are known by them.
        repeated = Counter(tensor.name for tensor in self._graph.tensors)
        self._names = [
            t.name.decode() + (f"#{i}" if repeated[t.name] > 1 else "") for i, t in enumerate(self._graph.tensors)
        ]
        require_inputs(path, [self._names[i] for i in self._graph.inputs], inputs)
        self._entries = _in_order(signature and signature.inputs, self._graph.inputs, inputs)
        self.outputs = [
            self._names[i] for i in _in_order(signature and signature.outputs, self._graph.outputs, outputs)
        ]
        self.quantized = {
            name: quantization
            for name, t in zip(self._names, self._graph.tensors, strict=True)
            if (quantization := _quantization(t))
        }
        self._whole: Interpreter | None = None
        self._interpreters: dict[str, Interpreter] = {}
        self._constants: dict[str, Any] = {}
        self._narrowed: dict[str, str] = {}
        self._of: dict[str, tuple[Any, str | None]] = {}
        self.operators = [
            operator for tflite_operator in self._graph.operators for operator in self._operators_of(tflite_operator)
        ]

    def _operators_of(self, tflite_operator: Any) -> list[Operator]:
        """One, or two where an activation is split off; none where it depends on constants alone."""
        kind = tflite.operator_name(self._model, tflite_operator)
        if not len(tflite_operator.outputs):
            raise UnsupportedError(
                f"LiteRT operator '{kind}' gives no tensor: a file that keeps a state between calls is not compared "
                "operator by operator; convert the model without state"
            )
        given = [int(i) for i in tflite_operator.inputs if i >= 0]
        results = [int(i) for i in tflite_operator.outputs]
        reads = tuple(dict.fromkeys(self._names[i] for i in given if not self._holds(i)))
        dtype = narrowest([self._stored_as(i) for i in (*given, *results) if self._holds(i) or self._is_rounded(i)])
        names = tuple(self._names[i] for i in results)
        activation = _ACTIVATIONS.get(getattr(tflite_operator.builtinOptions, "fusedActivationFunction", 0))
        # In 8 bits the result's range is already that behind the activation, which cannot be told apart.
        splits = activation is not None and tflite.DTYPES[self._graph.tensors[results[0]].type] == "float32"
        first = f"{names[0]} (before {activation})" if splits else names[0]
        self._of[first] = tflite_operator, activation if splits else None
        whole = Operator(kind, reads, (first, *names[1:]), dtype, moves=moving(kind, _SHAPES, _ORDERS))
        if not reads:
            self._constants.update(self.computed(whole, {}))
            self._narrowed.update(dict.fromkeys(names, dtype))
            return []
        return [whole, Operator(f"{activation} of {kind}", (first,), names, "float32")] if splits else [whole]

    def _holds(self, index: int) -> bool:
        tensor = self._graph.tensors[index]
        data = self._model.buffers[tensor.buffer].data
        # A variable is an operator's own state, which no other operator gives.
        return (data is not None and len(data) > 0) or self._names[index] in self._constants or tensor.isVariable

    def _is_rounded(self, index: int) -> bool:
        return self._names[index] in self.quantized

    def _stored_as(self, index: int) -> str:
        return self._narrowed.get(self._names[index]) or tflite.DTYPES[self._graph.tensors[index].type]

    def entered(self, row: Arrays) -> dict[str, Any]:
        """See `Computation`."""
        values = {}
        for index, column in zip(self._entries, row.values(), strict=True):
            tensor, name = self._graph.tensors[index], self._names[index]
            dtype = np.dtype(tflite.DTYPES[tensor.type])
            placed = oriented(column, tuple(int(n) for n in tensor.shape) if tensor.shape is not None else ())
            quantization = self.quantized.get(name)
            values[name] = quantization.stored(placed, dtype) if quantization else placed.astype(dtype, copy=False)
        return values

    def computed(self, operator: Operator, values: Mapping[str, Any]) -> dict[str, Any]:
        """See `Computation`."""
        if operator.name not in self._of:
            value = values[operator.reads[0]]
            return {operator.name: _ACTIVATE[operator.kind.partition(" ")[0]](value).astype(value.dtype)}
        try:
            return self._run(operator, {name: values[name] for name in operator.reads})
        except (ValueError, RuntimeError) as e:
            cause = one_line(e, 200)
            raise ConversionError(f"LiteRT operator '{operator.kind}' at '{operator.name}': {cause}") from e

    def _run(self, operator: Operator, values: Mapping[str, np.ndarray]) -> dict[str, Any]:
        interpreter = self._interpreters.get(operator.name)
        if interpreter is None:
            content = bytes(tflite.packed(self._alone(*self._of[operator.name])))
            interpreter = self._interpreters[operator.name] = _interpreter(content)
        places = {d["name"]: d for d in interpreter.get_input_details()}
        for index, name in enumerate(operator.reads):
            details = places[f"read {index}"]
            if tuple(details["shape"]) != values[name].shape:
                interpreter.resize_tensor_input(details["index"], values[name].shape)
        interpreter.allocate_tensors()
        # State of the row before, as a recurrent operator keeps it.
        interpreter.reset_all_variables()
        for index, name in enumerate(operator.reads):
            interpreter.set_tensor(places[f"read {index}"]["index"], values[name])
        interpreter.invoke()
        given = interpreter.get_output_details()
        return {name: interpreter.get_tensor(d["index"]) for name, d in zip(operator.gives, given, strict=True)}

    def _alone(self, tflite_operator: Any, activation: str | None) -> Any:
        """A model of one operator, its constants with it; without its activation where that is split off."""
        operator, graph = copy.copy(tflite_operator), schema.SubGraphT()
        if activation is not None:
            operator.builtinOptions = copy.copy(tflite_operator.builtinOptions)
            operator.builtinOptions.fusedActivationFunction = 0
        used = list(
            dict.fromkeys(
                int(i)
                for i in (*tflite_operator.inputs, *tflite_operator.outputs, *(tflite_operator.intermediates or ()))
                if i >= 0
            )
        )
        at = {index: place for place, index in enumerate(used)}
        reads = list(dict.fromkeys(int(i) for i in tflite_operator.inputs if i >= 0 and not self._holds(int(i))))
        calls = any(
            hasattr(o, a) for o in (tflite_operator.builtinOptions, tflite_operator.builtinOptions2) for a in _SUBGRAPHS
        )
        # Buffer 0 is the empty one by the schema; bodies find theirs by number, so all come along.
        buffers = list(self._model.buffers) if calls else [schema.BufferT()]
        graph.tensors = [self._tensor(index, reads, buffers) for index in used]
        operator.inputs, operator.outputs = (
            [at.get(int(i), -1) for i in side] for side in (tflite_operator.inputs, tflite_operator.outputs)
        )
        if tflite_operator.intermediates is not None:
            operator.intermediates = [at[int(i)] for i in tflite_operator.intermediates]
        operator.opcodeIndex = 0
        graph.inputs, graph.outputs, graph.operators = [at[i] for i in reads], list(operator.outputs), [operator]
        model = schema.ModelT()
        model.version, model.buffers = self._model.version, buffers
        model.operatorCodes = [self._model.operatorCodes[tflite_operator.opcodeIndex]]
        model.subgraphs = [graph]
        if calls:  # it names other subgraphs by their number, and those their operators
            operator.opcodeIndex = tflite_operator.opcodeIndex
            model.operatorCodes = self._model.operatorCodes
            model.subgraphs = [graph if g is self._graph else g for g in self._model.subgraphs]
        return model

    def _tensor(self, index: int, reads: list[int], buffers: list[Any]) -> Any:
        tensor = copy.copy(self._graph.tensors[index])
        data = self._model.buffers[tensor.buffer].data
        if self._names[index] in self._constants:
            data = np.frombuffer(np.ascontiguousarray(self._constants[self._names[index]]).tobytes(), np.uint8)
        # Inputs are found by name, since the interpreter numbers tensors anew.
        tensor.name = f"read {reads.index(index)}".encode() if index in reads else f"tensor {index}".encode()
        tensor.buffer = len(buffers)
        buffer = schema.BufferT()
        buffer.data = data
        buffers.append(buffer)
        return tensor

    def whole(self, row: Arrays) -> list[np.ndarray]:
        """See `Computation`."""
        values = self.entered(row)
        try:
            outputs = self._by_runtime({index: values[self._names[index]] for index in self._entries})
        except (ValueError, RuntimeError) as e:
            cause = one_line(e, 200)
            raise ConversionError(f"{self._path.name}: LiteRT does not run it: {cause}") from e
        return [self._as_real(name, outputs[name]) for name in self.outputs]

    def _by_runtime(self, given: dict[int, np.ndarray]) -> dict[str, np.ndarray]:
        if self._whole is None:
            self._whole = Interpreter(str(self._path), num_threads=2)
        signature = (self._model.signatureDefs or [None])[0]
        if signature is not None:
            answers = self._whole.get_signature_runner()(
                **{m.name.decode(): given[m.tensorIndex] for m in signature.inputs}
            )
            # Copied, since the runner gives views of memory that the next row overwrites.
            return {self._names[m.tensorIndex]: answers[m.name.decode()].copy() for m in signature.outputs}
        for index, value in given.items():
            self._whole.resize_tensor_input(index, value.shape)
        self._whole.allocate_tensors()
        for index, value in given.items():
            self._whole.set_tensor(index, value)
        self._whole.invoke()
        return {self._names[index]: self._whole.get_tensor(index) for index in self._graph.outputs}

    def _as_real(self, name: str, value: np.ndarray) -> np.ndarray:
        real = self.real(name, value)
        return value if real is None else real


_SUBGRAPHS = ("bodySubgraphIndex", "thenSubgraphIndex", "decompositionSubgraphIndex", "subgraph")


def _in_order(maps: Any, places: Sequence[int], names: Sequence[str]) -> list[int]:
    """The tensors of a side: by the source's names where the signature has them, else in the file's own order."""
    by_name = {m.name.decode(): int(m.tensorIndex) for m in maps or ()}
    return [by_name[name] for name in names] if set(names) <= set(by_name) else [int(i) for i in places]


def _quantization(tensor: Any) -> Quantization | None:
    parameters = tensor.quantization
    if (
        parameters is None
        or parameters.scale is None
        or not len(parameters.scale)
        or tflite.DTYPES[tensor.type].startswith("float")
    ):
        return None
    scale = np.asarray(parameters.scale, np.float64)
    zero = np.zeros(scale.shape) if parameters.zeroPoint is None else np.asarray(parameters.zeroPoint, np.float64)
    return Quantization(scale, zero, int(parameters.quantizedDimension))


def _interpreter(content: bytes) -> Interpreter:
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return Interpreter(model_content=content, experimental_op_resolver_type=plain, num_threads=2)
