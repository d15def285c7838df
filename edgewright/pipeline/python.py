"""``import edgewright as ew``: a deployment from a Python session, with the model and its data as they are there."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from edgewright.data import DataSpec
from edgewright.errors import InputError
from edgewright.live import model_name, write_data, write_model
from edgewright.pipeline.orchestration import run_deployments
from edgewright.pipeline.parameters import DeploymentParameters
from edgewright.profile import DeviceProfile
from edgewright.recipe import Recipe, Technique
from edgewright.release.lines import checked_names
from edgewright.shortage import require_processes
from edgewright.store import Store
from edgewright.value import Value

if TYPE_CHECKING:
    from edgewright.pipeline.result import DeploymentResult

__all__ = ["deploy"]

# Rows are handed over, so keys that name files, or belong to both a data file and a deployment, are not data's.
_OF_DATA = set(DataSpec.model_fields) - {"path", "test_path", "shapes"}
_OF_DEPLOYMENT = set(DeploymentParameters.model_fields) - {"model", "data", "target", "recipe", "device", "name"}


def deploy(
    model: Any,
    data: Any,
    *,
    platform: str | None = None,
    device: str | Path | DeviceProfile | None = None,
    recipe: str | Path | Recipe | Sequence[Technique] | None = None,
    metric: str | Callable[..., float] | None = None,
    name: str | None = None,
    **options: Any,
) -> "DeploymentResult":
    """Optimize, validate, package, release and monitor one model on one platform.

    The same flow as ``edgewright deploy``. A run that fails, or is over its budget, is a result that says so.

    Args:
        model: a torch.nn.Module or ExportedProgram, a Keras model, a scikit-learn or boosters' estimator, an ONNX
            ModelProto, or a path. A module is exported as it evaluates; it stays as it was.
        data: (rows, answers); rows alone; (training rows, answers, test rows, answers); a DataFrame with ``target``; a
            PyTorch DataLoader or Dataset; or a path. Rows (N, ...) are arrays or tensors, or a dict of them by the
            names of the model's inputs.
        platform: ios, android or edge_device.
        device: a device profile, its name, or the path of its ``.yaml``.
        recipe: likewise, or the techniques to apply, in order; as on the command line if left out.
        metric: the name of a metric, or a function of outputs and answers in a module file.
        name: what the model is called in releases; its file's name, or its class.
        options: further keys of a data file (task, labels, mean, scale, ...) and parameters of a deployment
            (max_latency_ms, max_size_mb, channel, repository, ...).

    Raises:
        InputError: bad input; nothing was written.

    >>> import edgewright as ew
    >>> ew.deploy("model.pt2", "data.npz", platform="toaster")
    Traceback (most recent call last):
    edgewright.errors.InputError: platform = 'toaster': input should be 'ios', 'android' or 'edge_device'
    """
    require_processes()
    of_data = {key: options.pop(key) for key in [*options] if key in _OF_DATA}
    if unknown := sorted(set(options) - _OF_DEPLOYMENT):
        allowed = ", ".join(sorted(_OF_DATA | _OF_DEPLOYMENT))
        raise InputError(f"unknown option '{unknown[0]}'; allowed: {allowed}")
    name = name or model_name(model)
    # All that is not a model or rows is looked at before these are written.
    parameters = DeploymentParameters.of({**options, "model": "", "data": "", "platform": platform, "name": name})
    checked_names(name, parameters.channel)
    # Gone after the run: what it needs of these files lies in the store by then.
    with Store().workspace() as folder:
        rows = write_data(data, folder, metric=metric, **of_data)
        files = {
            "model": write_model(model, name, folder, rows.examples),
            "data": rows.path,
            "device": _file_of(device, folder / "device.yaml"),
            "recipe": _file_of(_as_recipe(recipe), folder / "recipe.yaml"),
        }
        # What is left out keeps its default, which `DeploymentParameters` has.
        update = {key: value for key, value in files.items() if value is not None}
        return run_deployments([parameters.model_copy(update=update)])[0]


def _as_recipe(recipe: str | Path | Recipe | Sequence[Technique] | None) -> str | Path | Recipe | None:
    if recipe is None or isinstance(recipe, (str, os.PathLike, Recipe)):
        return recipe
    return Recipe(name="own", description="Given in Python.", techniques=tuple(recipe))


def _file_of(given: str | Path | Value | None, path: Path) -> str | None:
    """A profile's name or path, or the file that a value was written into."""
    if not isinstance(given, Value):
        return None if given is None else str(given)
    path.write_text(yaml.safe_dump(given.model_dump(mode="json"), sort_keys=False))
    return str(path)
