"""The parameters of a deployment, wherever they are given.

The options of the command line, the form in the Prefect UI, the keywords in Python, and the parameters of the run in
MLflow are made from the fields of `DeploymentParameters`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from edgewright.profile import Platform, shipped_names
from edgewright.value import Value
from edgewright.yaml_values import validated

__all__ = ["DeploymentParameters"]


def _above_zero(limit: Any) -> Any:
    # `gt` lets infinity pass, which is a limit that nothing can miss.
    if isinstance(limit, (int, float)) and not 0 < limit < float("inf"):
        raise ValueError("a limit is a number above zero; leave it out to set none")
    return limit


PositiveLimit = Annotated[float | None, Field(gt=0), BeforeValidator(_above_zero)]


@dataclass(frozen=True)
class _Offered:
    """Beside a text's type: a form offers what is shipped; the path of a .yaml is taken as well."""

    kind: Literal["device", "recipe"]

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        json_schema = handler(schema)
        # A text that may be left out is `anyOf` text and null.
        text = json_schema["anyOf"][0] if "anyOf" in json_schema else json_schema
        text["enum"] = shipped_names(self.kind)
        return json_schema


class DeploymentParameters(Value):
    """Parameters of a deployment, as they are given."""

    model: Path = Field(
        description="A trained model: .pt2, .pkl, .joblib, .skops, .onnx, .keras, .h5, a SavedModel folder, or a .yaml "
        "that names a PyTorch factory and its weights."
    )
    data: Path = Field(description="Real data: .csv, .parquet, .npz, or a .yaml that describes one.")
    target: str | None = Field(None, description="The column with the true answers.")
    device: Annotated[str | None, _Offered("device")] = Field(
        None, description="A device profile: a name, or your own .yaml."
    )
    platform: Platform | None = Field(None, description="ios, android or edge_device: that platform's generic device.")
    recipe: Annotated[str, _Offered("recipe")] = Field(
        "int8", description="What is done to the model: a name, or your own .yaml."
    )
    max_latency_ms: PositiveLimit = Field(None, description="Limit of the p95 latency, milliseconds.")
    max_memory_mb: PositiveLimit = Field(None, description="Limit of the memory that the model adds, MB.")
    max_size_mb: PositiveLimit = Field(None, description="Limit of the file on the device, MB.")
    max_accuracy_drop: PositiveLimit = Field(None, le=100, description="Limit of the loss, percentage points.")
    shapes: dict[str, list[int]] | None = Field(
        None, description='Sizes of an input whose axes are free, by its name: {"image": [1, 3, 224, 224]}.'
    )
    repository: str | None = Field(
        None, description="Release repository: a folder or any fsspec URL; .edgewright/releases if left out."
    )
    channel: str = Field(
        "stable",
        description="Release channel. Name, platform and channel make a line of versions, which devices follow.",
    )
    name: str | None = Field(None, description="What the model is called; its file's name if left out.")
    allow_poor_source: bool = Field(False, description="Release a model that is barely better than chance, too.")
    enable_performance_tracking: bool = Field(True, description="Devices record latency and memory.")
    enable_accuracy_monitoring: bool = Field(
        True, description="Devices record right and wrong answers where they are known."
    )

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """The parameters by name.

        Raises:
            InputError: the first that is unknown, missing or not allowed.
        """
        return validated(cls, given)

    def texts(self) -> dict[str, str]:
        """Those that differ from their defaults, as text for a record; a path by its last part."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return {
            # Others read the record, to whom a path of this machine says nothing.
            name: value.name if isinstance(value, Path) else str(value)
            for name, value in given.items()
            if value != type(self).model_fields[name].default
        }
