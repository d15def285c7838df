"""What a user asks for, checked as a whole before any work starts. No ML framework is imported here."""

from dataclasses import replace
from pathlib import Path

from edgewright.data import DataSpec, load_data_spec
from edgewright.errors import InputError, ProfileError
from edgewright.monitor import MonitoringPlan
from edgewright.pipeline.parameters import DeploymentParameters
from edgewright.profile import Budget, DeviceProfile, Platform, load_device
from edgewright.recipe import Recipe, load_recipe
from edgewright.release.lines import checked_names
from edgewright.value import Value

__all__ = ["DeploymentRequest", "resolve"]


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

    @property
    def monitoring(self) -> MonitoringPlan:
        """What the devices record; its limits follow from validation."""
        return MonitoringPlan(
            enable_performance_tracking=self.parameters.enable_performance_tracking,
            enable_accuracy_monitoring=self.parameters.enable_accuracy_monitoring,
        )


def resolve(parameters: DeploymentParameters) -> DeploymentRequest:
    """Look up the device and the recipe, and merge the budget: a limit given here replaces the device's own.

    Without a name the model is called as its file, without the ending.

    Raises:
        InputError: anything that was named is missing or not allowed; nothing was written.
    """
    profile = _device(parameters.platform, parameters.device)
    name = parameters.name if parameters.name is not None else parameters.model.stem
    checked_names(name, parameters.channel)
    # Whether it is there, no more: a source file is opened in a confined child.
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
        # Tasks may run in a worker that has another working directory.
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
    # The device's own limit goes before the recipe's.
    of_recipe = device.budget.max_class_drop_percent or recipe.max_class_drop_percent
    limits = {name: limit for name, limit in given.items() if limit is not None}
    return replace(device.budget, max_class_drop_percent=of_recipe, **limits)


def _device(platform: Platform | None, device: str | None) -> DeviceProfile:
    if device is None and platform is None:
        raise InputError("neither a device nor a platform is given; give --device PROFILE or --platform PLATFORM")
    profile = load_device(device or f"generic_{platform}")
    if platform is not None and profile.platform != platform:
        raise ProfileError(f"device '{profile.name}' is {profile.platform}, not {platform}; leave --platform out")
    return profile
