"""``edgewright store``: whether the home, or a release repository, is whole; mending it; keeping it small."""

from typing import Annotated

import typer

from edgewright.errors import ProfileError
from edgewright.store import Store
from edgewright.terminal import terminal

__all__ = ["store_app"]

EXIT_DAMAGED = 1

store_app = typer.Typer(
    no_args_is_help=True, help="Check, repair and shrink Edgewright's home or a release repository."
)
console = terminal()

_Repository = Annotated[
    str | None, typer.Option(help="A release repository (a folder or any fsspec URL) instead of the home.")
]
_Limit = Annotated[float | None, typer.Option(help="Remove what is oldest until this many GB are left.")]


@store_app.command("check")
def check(repository: _Repository = None) -> None:
    """Compare every file with its digest; a line for each that is damaged, and exit code 1 where there is one."""
    from edgewright.release.upkeep import check_repository
    from edgewright.upkeep import check_home

    findings = check_repository(repository) if repository else check_home(Store())
    _say([*findings.damaged, findings.summary])
    if findings.damaged:
        raise typer.Exit(EXIT_DAMAGED)


@store_app.command("repair")
def repair(repository: _Repository = None) -> None:
    """Make whole what can be, remove what is damaged or left of killed runs; exit code 1 where something stays bad."""
    from edgewright.release.upkeep import repair_repository
    from edgewright.upkeep import repair_home

    repaired, unrepaired = repair_repository(repository, Store()) if repository else (repair_home(Store()), [])
    _say([*repaired, *unrepaired] or ["everything is whole"])
    if unrepaired:
        raise typer.Exit(EXIT_DAMAGED)


@store_app.command("gc")
def collect(max_gb: _Limit = None, repository: _Repository = None) -> None:
    """Remove what nothing needs; with a limit also what was of no use for longest, or the oldest releases."""
    from edgewright.release.upkeep import collect_repository
    from edgewright.upkeep import collect_home

    # Written so that NaN is refused as well.
    if max_gb is not None and not 0 <= max_gb < float("inf"):
        raise ProfileError(f"--max-gb {max_gb:g}: a size of 0 or more is needed")
    limit = None if max_gb is None else int(max_gb * 1e9)
    _say(collect_repository(repository, limit) if repository else collect_home(Store(), limit))


def _say(lines: list[str]) -> None:
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)
