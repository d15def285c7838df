"""What a user asks for, checked as a whole before any work starts. No ML framework is imported here."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgewright.artifact import Value
from edgewright.data import DataSpec, load_data_spec
from edgewright.errors import InputError, ProfileError
from edgewright.profile import Budget, DeviceProfile, Platform, load_device
from edgewright.recipe import Recipe, load_recipe

__all__ = ["DEFAULT_RECIPE", "DeploymentRequest", "parse_shape", "resolve"]

DEFAULT_RECIPE = "int8"


class DeploymentRequest(Value):
    """One model to one device, with everything that was named looked up."""

    model: Path
    data: DataSpec
    device: DeviceProfile
    recipe: Recipe
    budget: Budget


def resolve(
    *,
    model: Path,
    data: Path,
    target: str | None = None,
    platform: str | None = None,
    device: str | None = None,
    recipe: str = DEFAULT_RECIPE,
    max_latency_ms: float | None = None,
    max_memory_mb: float | None = None,
    max_size_mb: float | None = None,
    max_accuracy_drop: float | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> DeploymentRequest:
    """Look up the device and the recipe, and merge the budget: a limit given here replaces the device's own.

    Raises:
        InputError: anything that was named is missing or not allowed; nothing was written.
    """
    given = {
        "max_latency_ms": max_latency_ms,
        "max_memory_mb": max_memory_mb,
        "max_size_mb": max_size_mb,
        "max_accuracy_drop_percent": max_accuracy_drop,
    }
    for name, limit in given.items():
        if limit is not None and not 0 < limit < float("inf"):
            raise ProfileError(f"{name} = {limit:g}: a limit is a number above zero; leave it out to set none")
    if max_accuracy_drop is not None and max_accuracy_drop > 100:
        raise ProfileError(f"max_accuracy_drop = {max_accuracy_drop:g}: percentage points, at most 100")
    profile = _device(platform, device)
    for path, what in ((model, "model"), (data, "data")):
        if not path.exists():
            raise InputError(f"{what} {path}: no such file")
    spec = load_data_spec(data.absolute(), target)
    if shapes:
        spec = spec.model_copy(update={"shapes": {name: tuple(sizes) for name, sizes in shapes.items()}})
    chosen = load_recipe(recipe)
    limits = {**profile.budget.model_dump(), **{k: v for k, v in given.items() if v is not None}}
    limits["max_class_drop_percent"] = limits["max_class_drop_percent"] or chosen.max_class_drop_percent
    return DeploymentRequest(
        model=model.absolute(),
        data=spec,
        device=profile,
        recipe=chosen,
        budget=Budget.model_validate(limits),
    )


def _device(platform: str | None, device: str | None) -> DeviceProfile:
    if platform is not None and platform not in set(Platform):
        raise ProfileError(f"unknown platform '{platform}'; known: {', '.join(Platform)}")
    if device is None and platform is None:
        raise InputError("neither a device nor a platform is given; give --device PROFILE or --platform PLATFORM")
    profile = load_device(device or f"generic_{platform}")
    if platform is not None and profile.platform != platform:
        raise ProfileError(f"device '{profile.name}' is {profile.platform}, not {platform}; leave --platform out")
    return profile


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """``"image=1,3,224,224"`` as a name and its sizes.

    Raises:
        InputError: anything else.
    """
    name, _, sizes = text.partition("=")
    try:
        shape = tuple(int(size) for size in sizes.split(","))
    except ValueError:
        shape = ()
    if not name or not shape or min(shape) < 1:
        raise InputError(f"--shape {text}: expected the input's name and its sizes, such as image=1,3,224,224")
    return name, shape
