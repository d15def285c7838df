"""What a user asks for, checked as a whole before any work starts. No ML framework is imported here.

The fields of `DeploymentParameters` are the parameters of a deployment wherever they are given: the options of the
command line, the form in the Prefect UI, the keywords in Python, and the parameters of the run in MLflow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from edgewright.artifact import Value
from edgewright.data import DataSpec, load_data_spec
from edgewright.deploy.lines import checked_names
from edgewright.errors import InputError, ProfileError
from edgewright.monitor import MonitoringPlan
from edgewright.profile import Budget, DeviceProfile, Platform, load_device, shipped_names
from edgewright.recipe import Recipe, load_recipe
from edgewright.yaml_values import validated

__all__ = ["DeploymentParameters", "DeploymentRequest", "parse_shapes", "resolve"]


def _above_zero(limit: Any) -> Any:
    if isinstance(limit, (int, float)) and not 0 < limit < float("inf"):
        raise ValueError("a limit is a number above zero; leave it out to set none")
    return limit


Limit = Annotated[float | None, Field(gt=0), BeforeValidator(_above_zero)]


@dataclass(frozen=True)
class _Offered:
    """Beside a text's type: a form offers what is shipped; the path of a .yaml is taken as well."""

    kind: Literal["device", "recipe"]

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        made = handler(schema)
        text = made["anyOf"][0] if "anyOf" in made else made
        text["enum"] = shipped_names(self.kind)
        return made


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
    max_latency_ms: Limit = Field(None, description="Limit of the p95 latency, milliseconds.")
    max_memory_mb: Limit = Field(None, description="Limit of the memory that the model adds, MB.")
    max_size_mb: Limit = Field(None, description="Limit of the file on the device, MB.")
    max_accuracy_drop: Limit = Field(None, le=100, description="Limit of the loss, percentage points.")
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
            name: value.name if isinstance(value, Path) else str(value)
            for name, value in given.items()
            if value != type(self).model_fields[name].default
        }

    @property
    def monitoring(self) -> MonitoringPlan:
        """What the devices record."""
        return MonitoringPlan(
            enable_performance_tracking=self.enable_performance_tracking,
            enable_accuracy_monitoring=self.enable_accuracy_monitoring,
        )


class DeploymentRequest(Value):
    """One model to one device, with everything that was named looked up.

    ``name`` (of the model), the device's platform and ``channel`` make the line that it is released in.
    """

    parameters: DeploymentParameters
    name: str
    channel: str
    model: Path
    data: DataSpec
    device: DeviceProfile
    recipe: Recipe
    budget: Budget


def resolve(parameters: DeploymentParameters) -> DeploymentRequest:
    """Look up the device and the recipe, and merge the budget: a limit given here replaces the device's own.

    Without a name the model is called as its file, without the ending.

    Raises:
        InputError: anything that was named is missing or not allowed; nothing was written.
    """
    profile = _device(parameters.platform, parameters.device)
    name = parameters.name if parameters.name is not None else parameters.model.stem
    checked_names(name, parameters.channel)
    for path, what in ((parameters.model, "model"), (parameters.data, "data")):
        if not path.exists():
            raise InputError(f"{what} {path}: no such file")
    data = load_data_spec(parameters.data.absolute(), parameters.target)
    if parameters.shapes:
        data = data.model_copy(update={"shapes": {k: tuple(sizes) for k, sizes in parameters.shapes.items()}})
    recipe = load_recipe(parameters.recipe)
    return DeploymentRequest(
        parameters=parameters,
        name=name,
        channel=parameters.channel,
        model=parameters.model.absolute(),
        data=data,
        device=profile,
        recipe=recipe,
        budget=_budget(parameters, profile, recipe),
    )


def _budget(parameters: DeploymentParameters, device: DeviceProfile, recipe: Recipe) -> Budget:
    given = {
        "max_latency_ms": parameters.max_latency_ms,
        "max_memory_mb": parameters.max_memory_mb,
        "max_size_mb": parameters.max_size_mb,
        "max_accuracy_drop_percent": parameters.max_accuracy_drop,
    }
    limits = {**device.budget.model_dump(), **{k: v for k, v in given.items() if v is not None}}
    limits["max_class_drop_percent"] = limits["max_class_drop_percent"] or recipe.max_class_drop_percent
    return Budget.model_validate(limits)


def _device(platform: Platform | None, device: str | None) -> DeviceProfile:
    if device is None and platform is None:
        raise InputError("neither a device nor a platform is given; give --device PROFILE or --platform PLATFORM")
    profile = load_device(device or f"generic_{platform}")
    if platform is not None and profile.platform != platform:
        raise ProfileError(f"device '{profile.name}' is {profile.platform}, not {platform}; leave --platform out")
    return profile


def parse_shapes(texts: Sequence[str]) -> dict[str, dict[str, tuple[int, ...]]]:
    """``["ids=1,32|64", "mask=1,32|64"]`` as ``{"32": {"ids": (1, 32), "mask": (1, 32)}, "64": ...}``.

    Each key says which of several sizes are chosen, and is empty where there is one choice. Whatever has several sizes
    changes together, first with first.

    Raises:
        InputError: not such a text, an input that is named twice, or different numbers of sizes.
    """
    given: dict[str, list[list[int]]] = {}
    for text in texts:
        name, sizes = _sizes(text)
        if name in given:
            raise InputError(f"--shape {text}: '{name}' is given twice; several sizes stand in one: {name}=1,32|64")
        given[name] = sizes
    counts = sorted({len(choices) for sizes in given.values() for choices in sizes if len(choices) > 1})
    if len(counts) > 1:
        raise InputError(
            f"--shape {' '.join(texts)}: sizes change together, first with first, so each needs as many; found "
            f"{' and '.join(str(count) for count in counts)}"
        )
    found = {}
    for number in range(counts[0] if counts else 1):
        varied = [choices[number] for sizes in given.values() for choices in sizes if len(choices) > 1]
        found["x".join(str(size) for size in dict.fromkeys(varied))] = {
            name: tuple(choices[number if len(choices) > 1 else 0] for choices in sizes)
            for name, sizes in given.items()
        }
    if counts and len(found) < counts[0]:
        raise InputError(f"--shape {' '.join(texts)}: the same sizes stand there twice")
    return found


def _sizes(text: str) -> tuple[str, list[list[int]]]:
    """An input's name, and the choices for each axis."""
    name, _, sizes = text.partition("=")
    try:
        axes = [[int(size) for size in axis.split("|")] for axis in sizes.split(",")]
    except ValueError:
        axes = []
    if not name or not axes or min(size for axis in axes for size in axis) < 1:
        raise InputError(
            f"--shape {text}: expected the input's name and its sizes, such as image=1,3,224,224, or ids=1,32|64 for a "
            "file of each"
        )
    return name, axes
