"""What a user asks for, checked as a whole before any work starts. No ML framework is imported here."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgewright.artifact import Value
from edgewright.data import DataSpec, load_data_spec
from edgewright.deploy.lines import checked_names
from edgewright.errors import InputError, ProfileError
from edgewright.profile import Budget, DeviceProfile, Platform, load_device
from edgewright.recipe import Recipe, load_recipe

__all__ = ["DEFAULT_RECIPE", "DeploymentRequest", "parse_shapes", "resolve"]

DEFAULT_RECIPE = "int8"


class DeploymentRequest(Value):
    """One model to one device, with everything that was named looked up.

    ``name`` (of the model), the device's platform and ``channel`` make the line that it is released in.
    """

    name: str
    channel: str
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
    name: str | None = None,
    channel: str = "stable",
) -> DeploymentRequest:
    """Look up the device and the recipe, and merge the budget: a limit given here replaces the device's own.

    Without ``name`` the model is called as its file, without the ending.

    Raises:
        InputError: anything that was named is missing or not allowed; nothing was written.
    """
    given = {
        "max_latency_ms": max_latency_ms,
        "max_memory_mb": max_memory_mb,
        "max_size_mb": max_size_mb,
        "max_accuracy_drop_percent": max_accuracy_drop,
    }
    for key, limit in given.items():
        if limit is not None and not 0 < limit < float("inf"):
            raise ProfileError(f"{key} = {limit:g}: a limit is a number above zero; leave it out to set none")
    if max_accuracy_drop is not None and max_accuracy_drop > 100:
        raise ProfileError(f"max_accuracy_drop = {max_accuracy_drop:g}: percentage points, at most 100")
    profile = _device(platform, device)
    called = name if name is not None else model.stem
    checked_names(called, channel)
    for path, what in ((model, "model"), (data, "data")):
        if not path.exists():
            raise InputError(f"{what} {path}: no such file")
    spec = load_data_spec(data.absolute(), target)
    if shapes:
        spec = spec.model_copy(update={"shapes": {k: tuple(sizes) for k, sizes in shapes.items()}})
    chosen = load_recipe(recipe)
    limits = {**profile.budget.model_dump(), **{k: v for k, v in given.items() if v is not None}}
    limits["max_class_drop_percent"] = limits["max_class_drop_percent"] or chosen.max_class_drop_percent
    return DeploymentRequest(
        name=called,
        channel=channel,
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
