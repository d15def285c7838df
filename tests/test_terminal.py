"""Text of users is printed as it stands: brackets in a path or a column's name are not markup."""

import io
from pathlib import Path

import pytest
from rich.table import Table

from edgewright.errors import InputError
from edgewright.pipeline import cli
from edgewright.progress import progress
from edgewright.terminal import begun, terminal

NAME = "a[/x][bold] :smile: \\[red]"


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Everything that the command line prints, on a wide terminal."""
    stream = io.StringIO()
    for console in (cli.console, cli.errors):
        monkeypatch.setattr(console, "_file", stream)
        monkeypatch.setattr(console, "width", 200)
    return stream


def test_text_and_table_cells_are_printed_as_they_stand() -> None:
    console, table = terminal(), Table(NAME, title=NAME)
    table.add_row(NAME)
    console.file, console.width = io.StringIO(), 200
    console.print(NAME)
    console.print(table)
    console.print(begun("failed", NAME))
    assert console.file.getvalue().count(NAME) == 5


def test_an_error_names_a_path_with_brackets(printed: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> int:
        raise InputError(f"{NAME}.pkl: no such file")

    monkeypatch.setattr(cli, "app", refuse)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert f"error {NAME}.pkl: no such file" in printed.getvalue()


def test_a_step_with_brackets_is_shown(printed: io.StringIO) -> None:
    with cli.steps_shown(), progress.during(NAME, stage=True), progress.during(f"Looking into {NAME}"):
        pass


def test_a_file_with_brackets_is_inspected(
    tmp_path: Path, printed: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a[").mkdir()
    path = tmp_path / "a[" / "x].pkl"
    path.write_bytes(b"these are only words")
    monkeypatch.setattr("sys.argv", ["edgewright", "inspect", str(path)])
    with pytest.raises(SystemExit):
        cli.main()
    assert str(path) in printed.getvalue()


def test_no_other_console_is_made() -> None:
    """One that reads markup would print every name with brackets wrong, or end in an error."""
    root = Path(cli.__file__).parents[2]
    files = [p for part in ("edgewright", "flows", "tasks", "mlflow_server") for p in (root / part).rglob("*.py")]
    makers = {p.name for p in files if "Console(" in p.read_text()}
    assert makers == {"terminal.py"}
