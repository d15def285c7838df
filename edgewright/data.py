"""Where the real data lies and how it is read. No ML framework is imported here."""

from pathlib import Path

from pydantic import Field

from edgewright.artifact import Value
from edgewright.yaml_values import read_value

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
    spec, below = read_value(path, DataSpec, "data file"), path.parent
    test_path = below / spec.test_path if spec.test_path else None
    return spec.model_copy(update={"path": below / spec.path, "test_path": test_path, "target": target or spec.target})
