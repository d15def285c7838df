"""From the library to the flows: the project folder on the path, Prefect configured, a server for as long as it is
needed."""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from edgewright.pipeline.parameters import DeploymentParameters
from edgewright.pipeline.steps_shown import errors, steps_shown
from edgewright.progress import progress
from edgewright.project import put_on_path
from edgewright.shortage import require_writable
from edgewright.store import home
from edgewright.variables import default_variables, variable

if TYPE_CHECKING:
    from edgewright.pipeline.result import DeploymentResult

__all__ = ["configure_orchestration", "orchestrated", "project_module", "run_deployments"]


def run_deployments(each: Sequence[DeploymentParameters]) -> "list[DeploymentResult]":
    """Deploy one after another, in one orchestrator; what cannot begin is found before that is started.

    Raises:
        EdgewrightError: bad input, before anything was written.
    """
    from edgewright.intake import preflight
    from edgewright.pipeline.request import resolve

    # All of them before the first: no deployment is made where a later one cannot begin.
    requests = [resolve(parameters) for parameters in each]
    with steps_shown(), progress.during("Looking into the model and its data"):
        for request in requests:
            preflight(request.model, request.data)
    with steps_shown(), orchestrated("flows.edge_deployment") as pipeline:
        return [pipeline.deploy(**dict(parameters)) for parameters in each]


def project_module(name: str) -> ModuleType:
    """A module of the project folder, which is not a package of the library (docs/adr/0002-project-folder.md)."""
    configure_orchestration()
    put_on_path()
    return importlib.import_module(name)


@contextmanager
def orchestrated(name: str) -> Iterator[ModuleType]:
    """A module of ``flows/``, and a Prefect server for it until this ends.

    Raises:
        InputError: the home cannot be written.
    """
    require_writable(home())
    with ExitStack() as stack:
        with progress.during("Starting the orchestrator"):
            warning = stack.enter_context(project_module("flows.home_server").orchestrator())
            module = project_module(name)
        if warning:
            errors.print(warning)
        yield module


def configure_orchestration() -> None:
    """Before Prefect is imported: quiet, no telemetry, its files beside ours unless the user has a set-up already."""
    defaults = {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # A stage that fails says so in the result, in one line; Prefect would print its traceback twice.
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "60",
        "PREFECT_LOCAL_STORAGE_PATH": str(home() / "results"),
        "EDGEWRIGHT_HOME": str(home()),
    }
    # Left to itself, Prefect would keep its database in the user's home folder.
    if not (Path.home() / ".prefect" / "profiles.toml").exists():
        defaults["PREFECT_HOME"] = str(home() / "prefect")
    # A database elsewhere may restart, and the home's server answers 500 until it is back; with SQLite that is a full
    # disk, and waiting is in vain.
    if not (variable("PREFECT_API_DATABASE_CONNECTION_URL") or "sqlite").startswith("sqlite"):
        # After 2, 4 and 8 seconds, for each request: a run whose database stays away was seen to end in two minutes.
        defaults |= {"PREFECT_CLIENT_RETRY_EXTRA_CODES": "500", "PREFECT_CLIENT_MAX_RETRIES": "3"}
    # What the user has set stays.
    default_variables(defaults)
    # Its server makes this folder, but not the one above it, and then waits for itself in vain.
    # It expands a tilde, as in an env file, which no shell has; so must this.
    Path(variable("PREFECT_HOME") or home()).expanduser().mkdir(parents=True, exist_ok=True)
