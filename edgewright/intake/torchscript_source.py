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
from edgewright.intake.torch_source import TorchSource
from edgewright.intake.torchscript_guard import inspect_torchscript

__all__ = ["TorchScriptSource"]

_EXAMPLE_ROWS = 2


class TorchScriptSource(TorchSource):
    """A scripted or traced module over arrays; its batch is freed where the answers stay the same."""

    def __init__(self, path: Path, data: DataSpec) -> None:
        with normalized(path) as copy:
            inspect_torchscript(copy)
            try:
                script = torch.jit.load(copy, map_location="cpu").eval()
            except Exception as e:  # torch.jit.load has no error type of its own
                raise InputError(f"{path}: torch.jit cannot load it: {one_line(e)}") from e
        examples = _examples(_inputs_of(script, path), data)
        shapes = {name: tuple(example.shape[1:]) for name, example in examples.items()}
        super().__init__(path, data, _exported(script, tuple(examples.values()), path), shapes)
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


def _examples(names: list[str], data: DataSpec) -> dict[str, torch.Tensor]:
    found = {}
    for name, (shape, dtype) in zip(names, row_shapes(data, names), strict=True):
        # Signed whole numbers are ids; unsigned ones are pixels, which a network takes as real numbers.
        wanted = {"i": torch.int64, "b": torch.bool}.get(dtype.kind, torch.float32)
        found[name] = torch.zeros(_EXAMPLE_ROWS, *data.shapes.get(name, (0, *shape))[1:], dtype=wanted)
    return found


def _exported(script: Any, examples: tuple[torch.Tensor, ...], path: Path) -> Any:
    from torch._export.converter import TS2EPConverter

    try:
        return TS2EPConverter(script, examples).convert()
    except Exception as e:  # the converter raises whatever it meets
        raise ConversionError(
            f"{path}: a TorchScript archive that torch cannot export anew ({one_line(e)}); export the module that it "
            "was made of: torch.export.save(torch.export.export(model.eval(), inputs), 'model.pt2')"
        ) from e
