"""What readers find in files of other converters: without names, damaged, with parts that are shared or fixed."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from torch import nn

from edgewright.artifact import Format
from edgewright.errors import InputError
from edgewright.export import tflite
from edgewright.export.readers import sklearn_model, tflite_model, torch_model
from edgewright.export.readers.tally import Tally

FLOAT, INT8, INT4 = schema.TensorType.FLOAT32, schema.TensorType.INT8, schema.TensorType.INT4


def tensor(model, name, kind, shape, content=None, scales=(), points=None):
    """Another tensor of the graph; its number."""
    made, buffer = schema.TensorT(), schema.BufferT()
    buffer.data = None if content is None else np.frombuffer(content, np.uint8)
    model.buffers.append(buffer)
    made.name, made.type, made.shape, made.buffer = name, kind, list(shape), len(model.buffers) - 1
    if scales:
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale = list(scales)
        made.quantization.zeroPoint = points
    model.subgraphs[0].tensors.append(made)
    return len(model.subgraphs[0].tensors) - 1


def added():
    """x + c, of (1, 4)."""
    model, graph, code, operator = schema.ModelT(), schema.SubGraphT(), schema.OperatorCodeT(), schema.OperatorT()
    model.version, model.subgraphs, model.operatorCodes, model.buffers = 3, [graph], [code], [schema.BufferT()]
    graph.tensors, graph.operators = [], [operator]
    numbers = np.array([[1, 0, 2, 0]], np.float32)
    names = [tensor(model, b"x", FLOAT, (1, 4)), tensor(model, b"c", FLOAT, (1, 4), numbers.tobytes())]
    graph.inputs, graph.outputs = [names[0]], [tensor(model, b"y", FLOAT, (1, 4))]
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, names, graph.outputs
    return model


def saved(model, path):
    tflite.save(model, path)
    return path


def test_a_file_without_names_is_read(tmp_path: Path) -> None:
    model = added()
    flatbuffer_utils.strip_strings(model)
    found = tflite_model.read(saved(model, tmp_path / "m.tflite"))
    assert [(s.name, s.shape) for s in (*found.inputs, *found.outputs)] == [("tensor_0", (1, 4)), ("tensor_2", (1, 4))]
    assert found.operators == {"ADD": 1}
    assert (found.parameters, found.parameter_zeros) == (4, 2)


def out_of_range(model):
    model.subgraphs[0].operators[0].inputs = [0, 77]


DAMAGE = {
    "holds no graph": lambda m: setattr(m, "subgraphs", []),
    "operator code 9999 is unknown": lambda m: setattr(m.operatorCodes[0], "builtinCode", 9999),
    "operator 0 has code 5 of 1": lambda m: setattr(m.subgraphs[0].operators[0], "opcodeIndex", 5),
    "tensor 'c' is of type 99": lambda m: setattr(m.subgraphs[0].tensors[1], "type", 99),
    "index 40 is out of bounds": lambda m: setattr(m.subgraphs[0].tensors[1], "buffer", 40),
    "operator 0 reads or gives a tensor that is not among its 3": out_of_range,
    "an input or output is not among its 3 tensors": lambda m: setattr(m.subgraphs[0], "outputs", [8]),
}


@pytest.mark.parametrize("said", DAMAGE)
def test_what_a_file_refers_to_and_does_not_hold_is_named(said, tmp_path: Path) -> None:
    model = added()
    DAMAGE[said](model)
    with pytest.raises(InputError, match=said):
        tflite_model.read(saved(model, tmp_path / "m.tflite"))


def test_a_file_with_nothing_but_a_graph_is_read(tmp_path: Path) -> None:
    model, graph = schema.ModelT(), schema.SubGraphT()
    graph.tensors, graph.operators = [], []
    model.version, model.subgraphs, model.buffers = 3, [graph], []
    assert tflite_model.read(saved(model, tmp_path / "m.tflite")).operators == {}


def test_bytes_that_are_no_whole_numbers_are_refused(tmp_path: Path) -> None:
    model = added()
    tensor(model, b"odd", FLOAT, (2,), b"12345")
    with pytest.raises(InputError, match="5 bytes are no whole number of float32"):
        tflite_model.read(saved(model, tmp_path / "m.tflite"))


def test_a_scale_without_a_zero_point_has_zero(tmp_path: Path) -> None:
    model = added()
    tensor(model, b"w", INT8, (4,), np.array([0, 1, 0, 2], np.int8).tobytes(), scales=[0.5])
    model.subgraphs[0].inputs = [tensor(model, b"z", INT8, (1, 4), scales=[0.25])]
    found = tflite_model.read(saved(model, tmp_path / "m.tflite"))
    assert (found.inputs[0].scale, found.inputs[0].zero_point) == (0.25, 0)
    assert (found.parameters, found.parameter_zeros) == (8, 4)


def test_a_shared_buffer_is_counted_once(tmp_path: Path) -> None:
    model = added()
    shared = tensor(model, b"again", FLOAT, (4,))
    model.subgraphs[0].tensors[shared].buffer = model.subgraphs[0].tensors[1].buffer
    found = tflite_model.read(saved(model, tmp_path / "m.tflite"))
    assert found.parameters == 4
    assert [(w.tensors, w.bytes) for w in found.weights] == [(1, 16)]


@pytest.mark.parametrize(("points", "zeros"), [(None, 2), ([0], 2), ([-1], 1), ([0, 0, 0], 2)])
def test_zeros_of_4_bits_are_counted(points, zeros, tmp_path: Path) -> None:
    model = added()
    scales = [0.5] * (len(points) if points else 1)
    # 0, -1, 0: three elements in two bytes, and half a byte that is none.
    tensor(model, b"w", INT4, (3,), bytes([0xF0, 0x00]), scales=scales, points=points)
    (found,) = [w for w in tflite_model.read(saved(model, tmp_path / "m.tflite")).weights if w.dtype == "int4"]
    assert (found.elements, found.zeros, found.bytes) == (3, zeros, 2)


def test_a_program_tells_what_is_fixed_and_returns_nothing(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def forward(self, x, scale, flag):
            return x * scale, None, scale

    torch.export.save(torch.export.export(Scaled(), (torch.randn(2, 3), 2.0, None)), tmp_path / "m.pt2")
    found = torch_model.read(tmp_path / "m.pt2", Format.PT2)
    assert [(s.name, s.shape, s.dtype) for s in found.inputs] == [("x", (2, 3), "float32")]
    assert [s.shape for s in found.outputs] == [(2, 3)]
    assert "the input 'scale' is 2.0, fixed when it was exported" in found.notes


def test_estimators_that_hold_each_other_thousands_deep_are_counted() -> None:
    nested: object = np.ones(3)
    for _ in range(5000):
        nested = [nested]
    tally = Tally()
    sklearn_model._walk({"a": nested, "b": nested}, tally, Counter())
    assert tally.parameters == 3
