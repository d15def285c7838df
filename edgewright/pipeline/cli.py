"""The command line: ``edgewright deploy | validate | diagnose | inspect | compare | ui | profiles | schema | target |
cloud | store``.

Exit codes: 0 done; 1 bad input or a failed stage; 2 a budget was exceeded; 130 interrupted.
"""

import json
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic.fields import FieldInfo
from rich.table import Column, Table
from typer.models import ArgumentInfo, OptionInfo

from edgewright.errors import EdgewrightError, MissingLibraryError, ProfileError
from edgewright.pipeline.cloud_commands import cloud_app
from edgewright.pipeline.diagnose_command import diagnose
from edgewright.pipeline.orchestration import orchestrated, project_module, run_deployments
from edgewright.pipeline.parameters import DeploymentParameters
from edgewright.pipeline.shapes import parse_shapes
from edgewright.pipeline.signature import signature_of_fields
from edgewright.pipeline.steps_shown import console, errors, steps_shown
from edgewright.pipeline.store_commands import store_app
from edgewright.pipeline.target_commands import target_app
from edgewright.progress import progress
from edgewright.shortage import require_processes, require_writable, shortage_of
from edgewright.store import home, replace_file
from edgewright.terminal import begun

if TYPE_CHECKING:
    from edgewright.pipeline.result import DeploymentResult
    from edgewright.value import Value

__all__ = ["app", "main"]

SHAPE_HELP = "Sizes of an input's free axes: name=1,3,224; several, for a file of each: name=1,32|64."
EXIT_FAILED = 1
EXIT_OVER_BUDGET = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
profiles = typer.Typer(no_args_is_help=True, help="Device profiles and recipes.")
app.add_typer(profiles, name="profiles")
app.add_typer(target_app, name="target")
app.add_typer(cloud_app, name="cloud")
app.add_typer(store_app, name="store")
app.command()(diagnose)


def _typer_parameter(name: str, field: FieldInfo) -> tuple[ArgumentInfo | OptionInfo]:
    if name == "model":
        return (typer.Argument(help=field.description),)
    # Named here, or typer adds a `--no-...` to a switch that is off anyway.
    flag = [f"--{name.replace('_', '-')}"] if field.default is False else []
    return (typer.Option(*flag, help=field.description),)


@app.command(help="Optimize, validate, package, release and monitor one model on one platform.")
# typer has no option for a mapping: `--shape` stands for it.
@signature_of_fields(DeploymentParameters, _typer_parameter, leave_out=["shapes"])
def deploy(
    shape: Annotated[list[str] | None, typer.Option(help=SHAPE_HELP)] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the whole result to this file.")] = None,
    **given: Any,
) -> None:
    """Optimize, validate, package, release and monitor one model on one platform."""
    # In the command, not above: `--help` and the other commands start without it.
    from edgewright.pipeline.table import explanation, results_table

    called = given["name"] or given["model"].stem
    # A deployment for each choice of sizes.
    each = [
        DeploymentParameters.of(
            {**given, **({"shapes": sizes} if sizes else {}), **({"name": f"{called}-{choice}"} if choice else {})}
        )
        for choice, sizes in parse_shapes(shape or ()).items()
    ]
    try:
        results = run_deployments(each)
    except KeyboardInterrupt:
        errors.print("interrupted; nothing is half-written, the same command goes on where it stopped")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if json_file is not None:
        documents = [result.model_dump_json(indent=2) for result in results]
        # Each is JSON already, so they are joined as text.
        text = documents[0] if len(documents) == 1 else f"[{','.join(documents)}]"
        replace_file(json_file.absolute(), text.encode())
    # A run that ended before its first export has nothing to show.
    if shown := [result for result in results if result.optimization]:
        console.print(results_table(shown, console.width))
    for result in shown:
        console.print(explanation(result), soft_wrap=True, highlight=False, markup=False)
    _end_failed({parameters.name or called: result for parameters, result in zip(each, results, strict=True)})


def _end_failed(results: "Mapping[str, DeploymentResult]") -> None:
    """Say why each failed that did, and exit; those that did not are released all the same."""
    failed = {name: result for name, result in results.items() if result.status == "failed"}
    for name, result in failed.items():
        which = f"{name}, " if len(results) > 1 else ""
        stages = f"{which}after {len(result.completed_stages)} of 5 stages"
        errors.print(begun("failed", f"{stages}: {result.error or 'no reason given'}"), soft_wrap=True)
    if failed:
        # Another failure outweighs a missed limit: a script that tolerates exit code 2 must not pass over it.
        raise typer.Exit(EXIT_OVER_BUDGET if all(result.over_budget for result in failed.values()) else EXIT_FAILED)


@app.command()
def validate(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder, as the pipeline makes it.")],
    device: Annotated[list[str], typer.Option(help="A device profile, by name or .yaml; several are asked at once.")],
    baseline: Annotated[Path | None, typer.Option(help="A bundle to compare with, timed interleaved.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Heat for 5 seconds instead of 60.")] = False,
) -> None:
    """A finished bundle on one or several devices: does it run there, agree with its golden outputs, and fit."""
    from edgewright.package import read_bundle
    from edgewright.pipeline.table import check_table
    from edgewright.profile import load_device

    for name in device:  # what cannot be read is refused before an orchestrator is started
        load_device(name)
    for given in (bundle, baseline):
        if given is not None:
            read_bundle(given)
    with (
        steps_shown(),
        orchestrated("flows.validate") as flows,
        progress.during(f"Measuring on {len(device)} device(s)"),
    ):
        checks = flows.validate_bundle(bundle, device, baseline, quick)
    console.print(check_table(checks))
    if not all(check.passed for check in checks):
        raise typer.Exit(EXIT_FAILED if any(check.failure for check in checks) else EXIT_OVER_BUDGET)


@app.command()
def inspect(path: Annotated[Path, typer.Argument(help="A model, an exported file or a bundle.")]) -> None:
    """What a file is: format, inputs, outputs, dtypes actually stored, size, sparsity, digest, lineage."""
    from edgewright.pipeline.inspection import describe_path

    with steps_shown(), progress.during(f"Reading {path.name}"):
        table = describe_path(path)
    console.print(table)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(help="Ids of MLflow runs or deployments, or their first letters.")],
    html: Annotated[Path, typer.Option(help="Where the page with the Pareto plots goes.")] = Path("comparison.html"),
) -> None:
    """Runs side by side, read from MLflow: a table here, accuracy against latency and size on a page."""
    from edgewright.pipeline.table import comparison_table
    from edgewright.report.comparison import comparison_html

    compared_runs = project_module("tasks.compare").read_runs(runs)
    replace_file(html.absolute(), comparison_html(compared_runs).encode())
    console.print(comparison_table(compared_runs))
    console.print(f"plots: {html.absolute()}", soft_wrap=True)


@app.command()
def ui(
    prefect_port: Annotated[int | None, typer.Option(help="Port of the Prefect UI; 4200, or a free one.")] = None,
    mlflow_port: Annotated[int | None, typer.Option(help="Port of the MLflow UI; 5000, or a free one.")] = None,
) -> None:
    """Start the Prefect server, the MLflow server and a worker, with the deployments registered; Ctrl-C stops all."""
    require_writable(home())
    serve = project_module("flows.serve").serve
    servers = serve(prefect_port, mlflow_port)
    # As a service manager stops it: the way out is that of Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with steps_shown():
            urls = next(servers)
        console.print(f"Prefect UI  {urls['prefect']}\nMLflow UI   {urls['mlflow']}\nCtrl-C stops both and the worker.")
        next(servers)
    except KeyboardInterrupt:
        console.print("Stopping.")
    finally:
        servers.close()
    console.print("All stopped.")


@profiles.command("list")
def list_profiles() -> None:
    """Devices and recipes that are shipped."""
    from edgewright.profile import load_device, shipped_names
    from edgewright.recipe import load_recipe

    for name in shipped_names("device"):
        device = load_device(name)
        console.print(f"device  {name:<24} {device.platform.value:<12} {device.title}")
    for name in shipped_names("recipe"):
        console.print(f"recipe  {name:<24} {load_recipe(name).description}")


@profiles.command("show")
def show_profile(name: Annotated[str, typer.Argument(help="A device or a recipe.")]) -> None:
    """One device or recipe: every key that such a file may have, its value here, what is allowed, what it means."""
    from edgewright.pipeline.schema import keys_of
    from edgewright.profile import load_device, shipped_names
    from edgewright.recipe import load_recipe

    if name not in {*shipped_names("device"), *shipped_names("recipe")}:
        raise ProfileError(f"unknown profile '{name}'; `edgewright profiles list` names them all")
    shown = load_device(name) if name in shipped_names("device") else load_recipe(name)
    table = Table(Column("key", no_wrap=True), "here", "allowed", "meaning", title=name)
    for key in keys_of(type(shown), shown):
        table.add_row(*key)
    console.print(table)


@app.command()
def schema(kind: Annotated[Literal["data", "recipe", "device"], typer.Argument(help="Which file.")]) -> None:
    """The JSON schema of a data file, a recipe or a device profile, for editors that complete YAML by one."""
    from edgewright.data import DataSpec
    from edgewright.pipeline.schema import json_schema
    from edgewright.profile import DeviceProfile
    from edgewright.recipe import Recipe

    kinds: dict[str, type[Value]] = {"data": DataSpec, "recipe": Recipe, "device": DeviceProfile}
    # Not by the console, which would break lines at the terminal's width: this is for other programs.
    print(json.dumps(json_schema(kinds[kind]), indent=2))


def main() -> None:
    """Run the command line; every expected error is one line, and its exit code 1."""
    try:
        # Before a command imports NumPy.
        require_processes()
        # Standalone, click would end with its own exit code for a wrong option, 2: here that is a missed budget.
        code = app(standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    except typer.TyperException as e:
        message = e.format_message() if hasattr(e, "format_message") else str(e)
        message = message.replace("Value error, ", "")  # the validator's own words
        errors.print(begun("error", message), soft_wrap=True, highlight=False)
        code = EXIT_FAILED
    except EdgewrightError as e:
        errors.print(begun("error", str(e)), soft_wrap=True, highlight=False)
        code = EXIT_FAILED
    except ModuleNotFoundError as e:
        errors.print(begun("error", str(MissingLibraryError(str(e)))), soft_wrap=True, highlight=False)
        code = EXIT_FAILED
    except OSError as e:
        # A full disk is a sentence. Any other failure of the system is a defect, and shows where it is.
        lacking = shortage_of(e)
        if lacking is None:
            raise
        errors.print(begun("error", lacking), soft_wrap=True, highlight=False)
        code = EXIT_FAILED
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
