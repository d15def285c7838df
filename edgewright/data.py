"""Where the real data lies and how it is read. No ML framework is imported here."""

from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from edgewright.artifact import Value
from edgewright.errors import InputError
from edgewright.profile import first_fault

__all__ = ["DataSpec", "load_data_spec"]


class DataSpec(Value):
    """A table (``.csv``, ``.parquet``) with a target column, or arrays (``.npz``).

    Arrays are ``x_train``, ``y_train``, ``x_test``, ``y_test``, or ``x``, ``y`` (then split by ``seed``); an input
    of several tensors has one array each, ``x_test.<input name>``. ``(raw - mean) * scale`` is applied on the way in
    and travels in the manifest, so that the device does it too.
    """

    path: Path
    target: str | None = Field(None, description="The column, or the array, with the true answers.")
    test_path: Path | None = Field(
        None, description="Rows for the test alone; otherwise a share of `path` is held out."
    )
    scale: float = 1.0
    mean: float = 0.0
    test_fraction: float = Field(0.3, gt=0, lt=1)
    seed: int = 42
    shapes: dict[str, tuple[int, ...]] = Field(
        {}, description="Sizes of an ONNX input whose axes are free, by its name; the first stays free."
    )


def load_data_spec(path: Path, target: str | None = None) -> DataSpec:
    """The data a user names on the command line: a data file, or a ``.yaml`` that describes one.

    Paths inside the ``.yaml`` are relative to it.

    Raises:
        InputError: a missing file, or a key or value that is not allowed.
    """
    if path.suffix not in {".yaml", ".yml"}:
        return DataSpec(path=path, target=target)
    try:
        content = yaml.safe_load(path.read_text())
        spec = DataSpec.model_validate({**content, **({"target": target} if target else {})})
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError) as e:
        raise InputError(f"data file {path}: cannot be read: {str(e).splitlines()[0]}") from e
    except ValidationError as e:
        raise InputError(f"data file {path}: {first_fault(e, DataSpec)}") from e
    below = path.parent
    return spec.model_copy(
        update={"path": below / spec.path, "test_path": below / spec.test_path if spec.test_path else None}
    )
