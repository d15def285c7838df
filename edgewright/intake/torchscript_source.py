"""A TorchScript archive (`torch.jit.save`): exported anew by torch's own converter, then a program as any.

It does not say the shapes of its inputs; the data does. Runs in a child process: imports torch.
"""

from pathlib import Path
from typing import Any

import torch

from edgewright.data import DataSpec
from edgewright.errors import ConversionError, InputError
from edgewright.failures import one_line
from edgewright.intake.archives import normalized
from edgewright.intake.arrays import row_shapes
from edgewright.intake.example_rows import example, example_dtype
from edgewright.intake.given_shapes import input_sizes
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
        examples = _examples(_inputs_of(script, path), data, path)
        shapes = {name: tuple(example.shape[1:]) for name, example in examples.items()}
        super().__init__(path, data, _exported(script, examples, data, path), shapes)
        self.notes += ("a TorchScript archive, exported anew by torch for the shapes of the data",)


def _inputs_of(script: Any, path: Path) -> list[str]:
    """The names of forward's tensors, those without a default."""
    arguments = script._c._get_method("forward").schema.arguments[1:]
    needed = [a for a in arguments if not a.has_default_value()]
    other = next((a for a in needed if str(a.type) != "Tensor"), None)
    if other is not None or not needed:
        said = f"'{other.name}' of type {other.type}" if other is not None else "no tensor"
        raise InputError(f"{path}: forward takes {said}; give a module whose forward takes tensors")
    return [a.name for a in needed]


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
        if data.shapes:
            shown = ", ".join(f"{name}=1,{','.join(map(str, x.shape[1:]))}" for name, x in examples.items())
            raise InputError(
                f"{path}: a TorchScript archive that torch cannot export anew for --shape {shown} ({one_line(e)}); "
                "give sizes that its layers take, and none for what they fix"
            ) from e
        raise ConversionError(
            f"{path}: a TorchScript archive that torch cannot export anew ({one_line(e)}); export the module that it "
            "was made of: torch.export.save(torch.export.export(model.eval(), inputs), 'model.pt2')"
        ) from e
