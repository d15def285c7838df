"""A TorchScript archive (`torch.jit.save`): exported anew by torch's own converter, then a program as any.

It does not say the shapes of its inputs; the data does. Runs in a child process: imports torch.
"""

import math
from pathlib import Path
from typing import Any

import torch

from edgewright.data import DataSpec
from edgewright.errors import ConversionError, InputError, UnsupportedError
from edgewright.failures import one_line
from edgewright.intake.archives import normalized
from edgewright.intake.arrays import row_shapes
from edgewright.intake.example_rows import example, example_dtype
from edgewright.intake.given_shapes import input_sizes
from edgewright.intake.single_numbers import Number, is_given, number_argument
from edgewright.intake.tensor_names import plain_name
from edgewright.intake.torch_source import TorchSource
from edgewright.intake.torchscript_guard import inspect_torchscript

__all__ = ["TorchScriptSource"]


class TorchScriptSource(TorchSource):
    """A scripted or traced module over arrays; its batch is freed where the answers stay the same."""

    def __init__(self, path: Path, data: DataSpec) -> None:
        with normalized(path) as copy:
            inspect_torchscript(copy)
            try:
                script = torch.jit.load(copy, map_location="cpu").eval()
            except Exception as e:  # torch.jit.load has no error type of its own
                raise InputError(f"{path}: torch.jit cannot load it: {one_line(e)}") from e
        names, numbers, notes = _arguments(script, data, path)
        examples = _examples(names, data, path)
        shapes = {name: tuple(example.shape[1:]) for name, example in examples.items()}
        if numbers:
            script = _with_numbers(script, names, numbers)
        super().__init__(path, data, _exported(script, examples, data, path), shapes)
        self.notes += (*notes, "a TorchScript archive, exported anew by torch for the shapes of the data")


_NUMBERS: dict[str, type[Number]] = {"int": int, "float": float, "bool": bool, "number": float}


def _arguments(script: Any, data: DataSpec, path: Path) -> tuple[list[str], dict[str, Number], tuple[str, ...]]:
    """The names of forward's tensors, those without a default; its numbers and their values; notes."""
    names, numbers, notes = [], {}, []
    # The first argument is the module itself.
    for argument in script._c._get_method("forward").schema.arguments[1:]:
        # Optional numbers without a value are None, and stay so.
        name, kind = argument.name, str(argument.type).removeprefix("Optional[").removesuffix("]")
        has_default = argument.has_default_value()
        default = argument.default_value if has_default else None
        if kind in _NUMBERS and (default is not None or not has_default or is_given(data, name)):
            numbers[name], note = number_argument(data, name, _NUMBERS[kind], default, path)
            notes.append(note)
        # A tensor with a default is left to it: no data has its name.
        elif str(argument.type) == "Tensor" and not has_default:
            names.append(name)
        elif not has_default:
            raise InputError(
                f"{path}: forward takes '{name}' of type {argument.type}; "
                "give a module whose forward takes tensors and numbers"
            )
    if not names:
        raise InputError(f"{path}: forward takes no tensor; give a module whose forward takes tensors")
    return names, numbers, tuple(notes)


def _with_numbers(script: Any, names: list[str], numbers: dict[str, Number]) -> Any:
    """The module as one of its tensors alone: what branches on a number is decided."""
    holder = torch.nn.Module()
    holder.module = script
    # Compiled first: define() adds a forward to a module that is TorchScript already.
    wrapper: Any = torch.jit.script(holder)
    given = ", ".join([*(f"{name}={name}" for name in names), *(f"{n}={_written(v)}" for n, v in numbers.items())])
    taken = ", ".join(f"{name}: Tensor" for name in names)
    wrapper.define(f"def forward(self, {taken}):\n    return self.module.forward({given})\n")
    return wrapper.eval()


def _written(value: Number) -> str:
    # TorchScript's own language has no literal for them.
    return repr(value) if not isinstance(value, float) or math.isfinite(value) else f'float("{value}")'


def _states(script: Any) -> list[str]:
    """The attributes that forward writes."""
    graph = script.inlined_graph  # owns the nodes
    return sorted({node.s("name") for node in graph.findAllNodes("prim::SetAttr", recurse=True)})


def _examples(names: list[str], data: DataSpec, path: Path) -> dict[str, torch.Tensor]:
    """Rows of zeros; an archive fixes no size, so that the data's or the given ones count."""
    rows = dict(zip(names, row_shapes(data, names), strict=True))
    free: dict[str, list[int | str]] = {plain_name(n): [""] * (1 + len(shape)) for n, (shape, _) in rows.items()}
    of_data = {plain_name(name): (1, *shape) for name, (shape, _) in rows.items()}
    sizes = input_sizes(free, of_data | {plain_name(name): given for name, given in data.shapes.items()}, path)
    return {name: example(sizes[plain_name(name)][1:], example_dtype(dtype)) for name, (_, dtype) in rows.items()}


def _exported(script: Any, examples: dict[str, torch.Tensor], data: DataSpec, path: Path) -> Any:
    from torch._export.converter import TS2EPConverter

    try:
        return TS2EPConverter(script, tuple(examples.values())).convert()
    except Exception as e:  # the converter raises whatever it meets
        states = _states(script)
        if states:
            raise UnsupportedError(
                f"{path}: forward keeps a state of its own (it writes {', '.join(states[:6])}), so that an answer "
                "depends on the calls before it; give a module that takes its state as an input and returns the new one"
            ) from e
        if data.shapes:
            shown = ", ".join(f"{name}=1,{','.join(map(str, x.shape[1:]))}" for name, x in examples.items())
            raise InputError(
                f"{path}: a TorchScript archive that torch cannot export anew for --shape {shown} ({one_line(e)}); "
                "give sizes that its layers take, and none for what they fix"
            ) from e
        # Asked last, since it runs the archive once more.
        if refused := _refusal(script, examples):
            shown = ", ".join(f"{tuple(x.shape[1:])}" for x in examples.values())
            raise InputError(f"{data.path}: the model refuses rows of shape {shown}: {refused}") from e
        raise ConversionError(
            f"{path}: a TorchScript archive that torch cannot export anew ({one_line(e)}); export the module that it "
            "was made of: torch.export.save(torch.export.export(model.eval(), inputs), 'model.pt2')"
        ) from e


@torch.no_grad()
def _refusal(script: Any, examples: dict[str, torch.Tensor]) -> str:
    """What the archive itself says against such rows; empty where it takes them, or has loops that may never end."""
    graph = script.inlined_graph  # owns the nodes
    if graph.findAllNodes("prim::Loop", recurse=True):
        return ""
    try:
        script(*examples.values())
    except RuntimeError as e:  # a traceback of the interpreter, and what was wrong in its last line
        return one_line(str(e).strip().splitlines()[-1])
    return ""
