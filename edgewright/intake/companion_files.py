"""What a model consists of beside its own file: without it, a kept result would outlive a change of weights or code."""

import mmap
from pathlib import Path

from pydantic import Field

from edgewright.artifact import Format
from edgewright.code_version import source_version
from edgewright.intake.formats import detect_format
from edgewright.value import Value
from edgewright.yaml_values import read_value

__all__ = ["FactoryFile", "companion_files", "read_factory"]


class FactoryFile(Value):
    """The ``.yaml`` that stands for a PyTorch model; its module is looked for beside it first."""

    factory: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="package.module:function.")
    weights: Path | None = Field(None, description="A .safetensors or a state dict (.pt), relative to this file.")
    inputs: dict[str, tuple[int, ...]] = Field(description="Shape of each input without the batch axis, by its name.")


def read_factory(path: Path) -> FactoryFile:
    """Raises InputError: unreadable, or a key or value that is not allowed."""
    return read_value(path, FactoryFile, "model file")


def companion_files(model: Path) -> tuple[tuple[Path, ...], str]:
    """The files that belong to a model (external data of ONNX, a factory's weights), and the version of its code.

    Raises:
        InputError: the model's file is damaged, or a file that it names is missing.
    """
    kind = detect_format(model)
    if kind is Format.ONNX and _mentions_external_data(model):
        from edgewright.intake.onnx_source import external_files

        return external_files(model), ""
    if kind is Format.TORCH_FACTORY:
        made = read_factory(model)
        weights = model.parent / made.weights if made.weights else None
        files = (weights,) if weights and weights.is_file() else ()
        return files, source_version(made.factory.partition(":")[0], model.parent)
    return (), ""


def _mentions_external_data(model: Path) -> bool:
    """Whether the key of an external tensor's file stands anywhere: most models need not be parsed to know."""
    with model.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b"location") >= 0
