"""A PyTorch program saved by `torch.export.save` (``.pt2``): loaded, answered in eager mode, made the internal graph.

Runs in a child process: imports torch; onnx only where there is no graph.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from edgewright.data import DataSpec
from edgewright.errors import ConversionError, InputError, UnsupportedError
from edgewright.failures import one_line
from edgewright.intake.archives import normalized
from edgewright.intake.given_shapes import input_sizes
from edgewright.intake.grouped_experts import know_grouped_product
from edgewright.intake.program_graph import graph_of_program, refuse_training_mode
from edgewright.intake.pt2_guard import inspect_program
from edgewright.intake.single_numbers import Number, exported_number, fixed_note, single_number
from edgewright.intake.source import AskedSource
from edgewright.intake.tensor_names import plain_name
from edgewright_runtime.bundle.manifest import TensorSpec

if TYPE_CHECKING:
    import onnx

__all__ = ["TorchSource", "load_program"]

_ROWS_AT_ONCE = 256


class TorchSource(AskedSource):
    """A torch.export program over arrays."""

    def __init__(
        self, path: Path, data: DataSpec, program: Any = None, declared: Mapping[str, tuple[int, ...]] | None = None
    ) -> None:
        """``program`` where it is not in the file; ``declared``: names and shapes of its inputs where it has none."""
        self.program = load_program(path) if program is None else program
        # Before anything runs: what it answers would depend on chance.
        refuse_training_mode(self.program, str(path))
        self.fixed, fixed_notes = _fixed_numbers(self.program, data, path)
        inputs = (
            _inputs(self.program, self.fixed, data.shapes, path)
            if declared is None
            else _declared(self.program, declared)
        )
        self.kept, outputs, notes = _outputs(self.program, inputs, path)
        super().__init__(inputs, outputs, data)
        self.notes += (*fixed_notes, *notes)

    def to_graph(self) -> Any:
        """The program itself, its layers raised to modules."""
        return graph_of_program(self.program, self.kept, self.fixed)

    def to_onnx(self, name: str) -> "onnx.ModelProto":
        """ONNX by torch's own exporter, for a program that has no graph of tensor operations alone."""
        import onnxscript  # noqa: F401 - what torch's exporter is written in

        from edgewright.intake.onnx_nodes import fix_input, rename_ends

        try:
            exported = torch.onnx.export(self.program, dynamo=True, optimize=False, verbose=False)
        except torch.onnx.OnnxExporterError as e:
            raise ConversionError(f"exporting {name} to ONNX: {one_line(e)}") from e
        if exported is None:
            raise ConversionError(f"exporting {name} to ONNX: torch returned nothing")
        model: onnx.ModelProto = exported.model_proto
        # With fewer outputs the names below would go to the wrong ones.
        if len(model.graph.output) != len(self.outputs):
            raise UnsupportedError(f"exporting {name} to ONNX: some of its outputs have no place there")
        for number, value in self.fixed.items():
            fix_input(model, number, value.numpy())
        ends = zip([*model.graph.input, *model.graph.output], [*self.inputs, *self.outputs], strict=True)
        # By their order: the exporter chooses names of its own.
        rename_ends(model, {entry.name: tensor.name for entry, tensor in ends})
        return model

    def ask(self, inputs: list[NDArray[Any]]) -> list[NDArray[np.float64]]:
        """What the program itself says, one array for each output that is kept; a fixed batch piece by piece."""
        module, rows = self._module, len(inputs[0])
        step = self.program_batch if self.program_batch > 0 else _ROWS_AT_ONCE
        batch_answers: list[list[NDArray[np.float64]]] = []
        with torch.no_grad():
            for start in range(0, rows, step):
                # Cloned, since a program may write into its inputs.
                piece = [torch.from_numpy(x[start : start + step]).clone() for x in inputs]
                short = self.program_batch - len(piece[0]) if self.program_batch > 0 else 0
                if short > 0:
                    piece = [torch.cat([p, p[-1:].expand(short, *p.shape[1:])]) for p in piece]
                arguments, named = _call_arguments(self.program, piece, self.fixed)
                try:
                    results = pytree.tree_leaves(module(*arguments, **named))
                except Exception as e:  # an operation may raise anything
                    raise InputError(f"the model refuses its own data: PyTorch: {one_line(e)}") from e
                row_count = len(piece[0]) - max(short, 0)
                batch_answers.append([results[place][:row_count].double().numpy() for place in self.kept])
        return [np.concatenate(column) for column in zip(*batch_answers, strict=True)]

    @cached_property
    def _module(self) -> Any:
        return self.program.module(check_guards=False)

    @property
    def program_batch(self) -> int:
        """The batch size that the program fixes, -1 where it is free."""
        size = _row_inputs(self.program, self.fixed)[0].meta["val"].shape[0]
        return size if isinstance(size, int) else -1


def load_program(path: Path) -> Any:
    """The exported program.

    Raises:
        UntrustedModelError: it holds more than tensors and a graph of tensor operators; nothing of it has run.
        InputError: the file is damaged or was written by a newer torch.
    """
    with normalized(path) as copy:
        inspect_program(copy)
        know_grouped_product()
        try:
            return torch.export.load(copy)
        except Exception as e:  # torch.export.load has no error type of its own
            raise InputError(f"{path}: torch.export cannot load it: {one_line(e)}") from e


def _call_arguments(
    program: Any, tensors: list[torch.Tensor], fixed: Mapping[str, torch.Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The program's own call: its tensors in their places, numbers that are fixed beside them."""
    given, numbers = iter(tensors), {node.name for node in _number_inputs(program)}
    flat: list[Any] = []
    # Leaves in the order of the signature, which the program's own call puts into tuples and dictionaries.
    for spec in _input_specs(program):
        name = spec.arg.name
        if hasattr(spec.arg, "value"):
            flat.append(spec.arg.value)
        elif name in fixed:
            flat.append(fixed[name].item() if name in numbers else fixed[name])
        else:
            flat.append(next(given))
    arguments, named = pytree.tree_unflatten(flat, program.call_spec.in_spec)
    return arguments, named


def _input_specs(program: Any) -> list[Any]:
    return [spec for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]


def _user_inputs(program: Any) -> list[Any]:
    """The placeholders of the tensors that the program is given."""
    return [node for node in _placeholders(program) if isinstance(node.meta.get("val"), torch.Tensor)]


def _number_inputs(program: Any) -> list[Any]:
    """The placeholders of the Python numbers that the export left free."""
    return [node for node in _placeholders(program) if isinstance(node.meta.get("val"), torch.SymInt | torch.SymFloat)]


def _placeholders(program: Any) -> list[Any]:
    by_name = {n.name: n for n in program.graph.nodes if n.op == "placeholder"}
    return [by_name[n] for n in program.graph_signature.user_inputs if isinstance(n, str) and n in by_name]


def _fixed_numbers(program: Any, data: DataSpec, path: Path) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """The inputs without an axis and their values in the data; notes, and on those that the export itself fixed."""
    fixed, notes = {}, []
    dtypes = {n.name: _dtype(n) for n in _user_inputs(program) if not n.meta["val"].ndim}
    dtypes |= {n.name: _number_dtype(n) for n in _number_inputs(program)}
    for name, dtype in dtypes.items():
        value = single_number(data, name, dtype, path)
        fixed[name] = torch.from_numpy(value)
        notes.append(fixed_note(name, value))
    for spec in _input_specs(program):
        number = getattr(spec.arg, "value", None)
        if isinstance(number, Number):
            exported_number(data, spec.arg.name, number, path)
            notes.append(f"input '{spec.arg.name}' is a single number that the export fixed at {number}")
    return fixed, tuple(notes)


def _number_dtype(node: Any) -> str:
    return "float64" if isinstance(node.meta["val"], torch.SymFloat) else "int64"


def _row_inputs(program: Any, fixed: Mapping[str, torch.Tensor]) -> list[Any]:
    return [node for node in _user_inputs(program) if node.name not in fixed]


def _inputs(
    program: Any, fixed: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]], path: Path
) -> tuple[TensorSpec, ...]:
    nodes = _row_inputs(program, fixed)
    if not nodes and fixed:
        raise UnsupportedError(f"{path}: it takes single numbers alone; the first axis of an input must be the rows")
    if not nodes:
        raise UnsupportedError(f"{path}: the program takes no tensor")
    names = {node: plain_name(node.name) for node in nodes}
    declared = {name: [s if isinstance(s, int) else "" for s in n.meta["val"].shape] for n, name in names.items()}
    _refuse_rows_second(declared, path)
    sizes = input_sizes(declared, shapes, path)
    inputs = tuple(TensorSpec(name, sizes[name], _dtype(node)) for node, name in names.items())
    first = {t.shape[0] for t in inputs}
    if len(first) > 1:
        shapes_text = ", ".join(f"{t.name} {t.shape}" for t in inputs)
        raise UnsupportedError(
            f"{path}: the first axis of every input must be the rows, one size for all; found {shapes_text}"
        )
    return inputs


def _refuse_rows_second(declared: Mapping[str, list[int | str]], path: Path) -> None:
    """Refuse an input with the rows on its second axis, as a recurrent state (layers, N, hidden) has them."""
    second = [name for name, sizes in declared.items() if len(sizes) > 1 and isinstance(sizes[0], int) and not sizes[1]]
    # Only beside an input whose first axis is free: the free second axis is then the same batch.
    if second and any(sizes[0] == "" for sizes in declared.values() if sizes):
        name, layers = second[0], declared[second[0]][0]
        raise UnsupportedError(
            f"{path}: the first axis of every input must be the rows; '{name}' has them on the second: take it as "
            f"(N, {layers}, …) and write its transpose(0, 1) in forward"
        )


def _declared(program: Any, shapes: Mapping[str, tuple[int, ...]]) -> tuple[TensorSpec, ...]:
    """The inputs under the names of their source, their sizes those of its data, the first free."""
    pairs = zip(_user_inputs(program), shapes.items(), strict=True)
    return tuple(TensorSpec(plain_name(name), (-1, *shape), _dtype(node)) for node, (name, shape) in pairs)


def _dtype(node: Any) -> str:
    return str(node.meta["val"].dtype).removeprefix("torch.")


def _outputs(
    program: Any, inputs: tuple[TensorSpec, ...], path: Path
) -> tuple[list[int], tuple[TensorSpec, ...], tuple[str, ...]]:
    """Places, tensors and notes: kept are the outputs that hold a value for each row, on their first axis."""
    batch, entered = inputs[0].shape[0], {spec.name for spec in inputs}
    by_name = {n.name: n for n in program.graph.nodes}
    results = [s for s in program.graph_signature.output_specs if s.kind is OutputKind.USER_OUTPUT]
    outputs: dict[int, TensorSpec] = {}
    left_out = []
    for place, (spec, key) in enumerate(zip(results, _output_keys(program, len(results)), strict=True)):
        # An output that is a number or None has no node.
        value = by_name[spec.arg.name].meta.get("val") if getattr(spec.arg, "name", None) in by_name else None
        name = key or getattr(spec.arg, "name", f"output_{place}")
        if isinstance(value, torch.Tensor) and len(value.shape) and _has_rows(value, batch):
            name = plain_name(name)
            name = f"{name}_output" if name in entered else name  # files have one space of names for both
            known = {t.name for t in outputs.values()}
            name = name if name not in known else f"{name}_{place}"
            outputs[place] = TensorSpec(name, _sizes(value, batch), str(value.dtype).removeprefix("torch."))
        elif isinstance(value, torch.Tensor):
            left_out.append(f"{name} {tuple(s if isinstance(s, int) else -1 for s in value.shape)}")
    if not outputs:
        raise UnsupportedError(
            f"{path}: no output has the rows on its first axis{f' ({left_out[0]})' if left_out else ''}; "
            "return a tensor whose first axis is the batch"
        )
    notes = (f"outputs without the rows on their first axis were left out: {', '.join(left_out)}",) if left_out else ()
    return list(outputs), tuple(outputs.values()), notes


def _output_keys(program: Any, count: int) -> list[str]:
    """The name that each output has in a returned dictionary, else ""."""
    places = pytree.tree_unflatten(list(range(count)), program.call_spec.out_spec)
    return [
        "_".join(str(k.key) for k in keys if isinstance(k, pytree.MappingKey))
        for keys, _ in pytree.tree_flatten_with_path(places)[0]
    ]


def _has_rows(value: torch.Tensor, batch: int) -> bool:
    first = value.shape[0]
    return first == batch if batch > 0 and isinstance(first, int) else not isinstance(first, int)


def _sizes(value: torch.Tensor, batch: int) -> tuple[int, ...]:
    """A size that depends on the inputs' is -1; as is the first, where it is free."""
    return (batch, *(s if isinstance(s, int) else -1 for s in value.shape[1:]))
