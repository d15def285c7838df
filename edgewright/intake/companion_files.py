"""What a model consists of beside its own file: without it, a kept result would outlive a change of weights or code."""

import mmap
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from edgewright.artifact import Format
from edgewright.code_version import source_version
from edgewright.errors import InputError
from edgewright.intake.formats import detect_format
from edgewright.value import Value
from edgewright.yaml_values import read_value
from edgewright_runtime.disk import check_plain

__all__ = ["FactoryFile", "FactoryInput", "companion_files", "read_factory", "weights_file"]

_FORM = (
    "write `factory: package.module:function`, `weights: file` where there are any, and `inputs: {x: [3, 224, 224]}` "
    "(each input's name and the shape of a row), each at the start of a line"
)


def _short_form(value: Any) -> Any:
    """``[3, 224, 224]`` is short for ``{shape: [3, 224, 224]}``."""
    if isinstance(value, dict):
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(size, int) and size > 0 for size in value):
        return {"shape": value}
    raise ValueError(
        "write the shape of a row, without the batch: [3, 224, 224], or with the dtype of whole numbers and masks: "
        "{shape: [128], dtype: int64}"
    )


class FactoryInput(Value):
    """What a module is given for one of its inputs, row by row."""

    shape: tuple[Annotated[int, Field(gt=0)], ...] = Field(description="Without the batch axis.")
    dtype: Literal["float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"] | None = Field(
        None, description="By default what the data says: int64 or bool for whole numbers and masks, else float32."
    )


class FactoryFile(Value):
    """The ``.yaml`` that stands for a PyTorch model; its module is looked for beside it first."""

    factory: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="package.module:function.")
    weights: Path | None = Field(None, description="A .safetensors or a state dict (.pt), relative to this file.")
    inputs: dict[str, Annotated[FactoryInput, BeforeValidator(_short_form)]] = Field(
        min_length=1, description="Each input, in the order of forward, by its name: its shape, or shape and dtype."
    )

    @model_validator(mode="before")
    @classmethod
    def _keys_stand_where_they_belong(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        # A description that stands whole under one key (`model: {factory: ..., inputs: ...}`).
        outer = next((k for k, v in content.items() if isinstance(v, dict) and "factory" in v), None)
        if outer is not None and "factory" not in content:
            raise ValueError(f"'factory' stands under '{outer}': {_FORM}, none of them under another key")
        given = content.get("inputs")
        # Here, since pydantic's message for a missing key would not show the form.
        if "factory" in content and (not isinstance(given, dict) or not given):
            fault = "is missing" if "inputs" not in content else f"= {given!r} names no input"
            raise ValueError(f"key 'inputs' {fault}: {_FORM}")
        return content


def read_factory(path: Path) -> FactoryFile:
    """Raise `InputError`: unreadable, or a key or value that is not allowed."""
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
        description = read_factory(model)
        files = (weights_file(model.parent / description.weights),) if description.weights else ()
        return files, source_version(description.factory.partition(":")[0], model.parent)
    return (), ""


def weights_file(path: Path) -> Path:
    """The path, of a factory's weights.

    Raises:
        InputError: missing, or not a file.
    """
    try:
        check_plain(path)
    except OSError as e:
        reason = "no such file" if isinstance(e, FileNotFoundError) else f"cannot be read: {e.strerror}"
        raise InputError(f"{path}: {reason}") from e
    return path


def _mentions_external_data(model: Path) -> bool:
    """Whether the key of an external tensor's file stands anywhere: most models need not be parsed to know."""
    # Mapped, so that gigabytes of weights are not read into memory; `location` is ONNX's key for the file's name.
    with model.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b"location") >= 0
