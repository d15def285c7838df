"""How skl2onnx converts the transformers that stand in a model for others here, and those that it converts to what
scikit-learn does not compute. Runs in a child process.

The operators are those that the importer knows, and ONNX Runtime in every version: LabelEncoder from number to number,
Equal, Concat, Gather.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgewright.intake.column_steps import Filled, Picked, Powers, Splined
from edgewright.intake.elementwise_steps import Elementwise, write_function
from edgewright.intake.tabulated import ColumnTable, SparseRow, Tabulated
from edgewright.intake.term_weights import TermWeights

__all__ = ["register_own_converters"]

_ML = "ai.onnx.ml"


def register_own_converters() -> None:
    """Make them known to skl2onnx; again is harmless."""
    from skl2onnx import update_registered_converter
    from sklearn.preprocessing import Normalizer

    for kind, width, convert in (
        (Tabulated, lambda step: sum(table.width for table in step.tables), _tabulated),
        (Elementwise, lambda step: None, _elementwise),
        (TermWeights, lambda step: None, _written),
        *((kind, lambda step: step.width, _written) for kind in (Filled, Picked, Powers, Splined)),
    ):
        update_registered_converter(kind, f"Edgewright{kind.__name__}", _shape(width), convert, overwrite=True)
    update_registered_converter(
        Normalizer, "EdgewrightNormalizer", _shape(lambda step: None), _normalized, overwrite=True
    )


def _shape(width: Any) -> Any:
    from skl2onnx.common.data_types import FloatTensorType

    def calculate(operator: Any) -> None:
        columns = width(operator.raw_operator) or operator.inputs[0].type.shape[1]
        operator.outputs[0].type = FloatTensorType([operator.inputs[0].type.shape[0], columns])

    return calculate


class _Nodes:
    """The nodes of one converter; names are skl2onnx's."""

    def __init__(self, scope: Any, container: Any) -> None:
        self._scope, self._container = scope, container

    def call(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node and return its output's name."""
        output = str(self._scope.get_unique_variable_name(kind.lower()))
        name = self._scope.get_unique_operator_name(kind)
        self._container.add_node(kind, list(inputs), [output], op_domain=domain, name=name, **attributes)
        return output

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """Add a constant and return its name."""
        array: NDArray[Any] = np.asarray(values, dtype=dtype)
        name = str(self._scope.get_unique_variable_name("constant"))
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        self._container.add_initializer(name, kind, list(array.shape), array.reshape(-1).tolist())
        return name

    def end(self, value: str, operator: Any) -> None:
        """Make a value the operator's output."""
        name = self._scope.get_unique_operator_name("end")
        self._container.add_node("Identity", [value], [operator.outputs[0].full_name], name=name)


def _elementwise(scope: Any, operator: Any, container: Any) -> None:
    nodes = _Nodes(scope, container)
    nodes.end(write_function(nodes, operator.raw_operator.function, operator.inputs[0].full_name), operator)


def _written(scope: Any, operator: Any, container: Any) -> None:
    nodes = _Nodes(scope, container)
    nodes.end(operator.raw_operator.written(nodes, operator.inputs[0].full_name), operator)


def _normalized(scope: Any, operator: Any, container: Any) -> None:
    """Rows over their norm. ONNX takes the largest number for it, scikit-learn the largest in size."""
    nodes, rows, norm = _Nodes(scope, container), operator.inputs[0].full_name, operator.raw_operator.norm
    if norm != "max":
        nodes.end(nodes.call("Normalizer", rows, domain=_ML, norm=norm.upper()), operator)
        return
    size = nodes.call("ReduceMax", nodes.call("Abs", rows), nodes.constant([1], np.int64), keepdims=1)
    # A row of zeros stays.
    is_zero = nodes.call("Equal", size, nodes.constant(0.0))
    divisor = nodes.call("Where", is_zero, nodes.constant(1.0), size)
    nodes.end(nodes.call("Div", rows, divisor), operator)


def _tabulated(scope: Any, operator: Any, container: Any) -> None:
    nodes, step, cells = _Nodes(scope, container), operator.raw_operator, operator.inputs[0].full_name
    blocks, placed = [], list[int]()
    for column, (table, features) in enumerate(zip(step.tables, step.order, strict=True)):
        if table.width:
            cell = nodes.call("Gather", cells, nodes.constant([column], np.int64), axis=1)
            blocks.append(_block(nodes, cell, table))
            placed += features
    joined = blocks[0] if len(blocks) == 1 else nodes.call("Concat", *blocks, axis=1)
    if placed != sorted(placed):
        order = np.argsort(placed, kind="stable")
        joined = nodes.call("Gather", joined, nodes.constant(order, np.int64), axis=1)
    nodes.end(joined, operator)


def _block(nodes: _Nodes, cell: str, table: ColumnTable) -> str:
    """(N, 1) to (N, width)."""
    otherwise = table.otherwise if table.otherwise is not None else {}
    if table.width == 1 or not table.is_one_hot:
        columns = [
            _looked_up(
                nodes, cell, table, [row.get(feature, 0.0) for row in table.results], otherwise.get(feature, 0.0)
            )
            for feature in range(table.width)
        ]
        return columns[0] if len(columns) == 1 else nodes.call("Concat", *columns, axis=1)
    # The one feature that is hit; -1 where none is.
    hits = [_hit(row) for row in table.results]
    if list(table.keys) != hits or _hit(otherwise) != -1:
        cell = _looked_up(nodes, cell, table, hits, _hit(otherwise))
    hit = nodes.call("Equal", cell, nodes.constant([range(table.width)]))
    return nodes.call("Cast", hit, to=onnx.TensorProto.FLOAT)


def _hit(row: SparseRow) -> float:
    return float(next(iter(row), -1))


def _looked_up(nodes: _Nodes, cell: str, table: ColumnTable, values: Sequence[float], otherwise: float) -> str:
    return nodes.call(
        "LabelEncoder",
        cell,
        domain=_ML,
        keys_floats=list(table.keys),
        values_floats=list(values),
        default_float=float(otherwise),
    )
