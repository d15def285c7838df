"""The documentation: every technique has its keys there, the commands of each page are ones that there are, and what
the tutorial says to type works as it stands."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from edgewright.pipeline.cli import app
from edgewright.recipe import Technique
from edgewright_runtime.__main__ import _parser

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    path
    for folder in (DOCS, ROOT / "examples", ROOT / "edgewright_runtime", ROOT / "mlflow_server")
    for path in folder.rglob("*.md")
) + [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
TUTORIAL = ("first-deployment", "own-model", "own-device", "own-recipe", "own-metric", "python")
_BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(?:\$ )?(?:\.venv/bin/)?((?:edgewright|make|python|pip)\s.*)")
_PROGRAMS = {"python": [sys.executable], "edgewright": [sys.executable, "-m", "edgewright"]}


def test_every_technique_has_its_keys_in_the_reference() -> None:
    page = (DOCS / "reference" / "recipes.md").read_text()
    named = re.findall(r"^## (\w+)$", page, re.MULTILINE)
    assert named == [name for name, kind in Technique.known.items() if kind.__module__ == "edgewright.recipe"]
    for name in named:
        assert f"<!-- keys: edgewright.recipe:{Technique.known[name].__name__} -->" in page


def blocks(page: str) -> list[tuple[str, str, str]]:
    """(language, title, text) of a page's blocks, in their order."""
    return _BLOCK.findall((DOCS / "tutorial" / f"{page}.md").read_text())


def test_the_tutorial_has_something_to_type_on_each_page() -> None:
    assert {path.stem for path in (DOCS / "tutorial").glob("*.md")} == set(TUTORIAL)
    for page in TUTORIAL:
        languages = [language for language, _, _ in blocks(page)]
        assert "console" in languages, page


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_the_tutorial_says_to_type_works(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "EDGEWRIGHT_HOME"}
    for page in TUTORIAL:  # each uses what those before it made
        for language, title, text in blocks(page):
            if title:
                (tmp_path / title).write_text(text)
            elif language == "console":
                for line in text.splitlines():
                    program, *words = shlex.split(line.removeprefix("$ "))
                    done = subprocess.run(
                        [*_PROGRAMS[program], *words], cwd=tmp_path, env=environment, capture_output=True, text=True,
                        check=False,
                    )  # fmt: skip
                    assert done.returncode == 0, f"{page}: {line}\n{done.stdout}{done.stderr}"


def commands(page: str) -> Iterator[list[str]]:
    """What a page says to type, in a block or in a line of text, as words; optional parts are taken as given."""
    blocks = re.findall(r"^```(?:console)?\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    lines = [*(line for block in blocks for line in block.splitlines()), *re.findall(r"`([^`\n]+)`", prose)]
    for line in lines:
        if typed := _COMMAND.fullmatch(line.strip()):
            text = typed[1].partition("  #")[0].partition(" < ")[0]
            yield [word for word in shlex.split(re.sub(r"[\[\]](?=-|\s|$)", "", text)) if word != "…"]


def require_command(words: list[str]) -> None:
    """Fail where there is no such command, option, target of make, module or file."""
    match words:
        case ["edgewright", *rest]:
            command, context = get_command(app), None
            while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
                name, *rest = rest
                assert name in command.commands, f"no command '{name}'"
                command = command.commands[name]
            context = command.context_class(command, info_name=command.name)
            command.make_parser(context).parse_args(rest)
        case ["python", "-m", "edgewright_runtime", *rest] if len(rest) > 1:
            _parser().parse_args(rest)
        case ["python", "-m", module, *_]:
            assert importlib.util.find_spec(module)
        case ["python", script, *_] if "/" in script:
            assert (ROOT / script).is_file()
        case ["pip", "install", folder] if folder.startswith("./"):
            assert (ROOT / folder.partition("[")[0] / "pyproject.toml").is_file()
        case ["make", target, *_]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_says_to_type_what_there_is(path: Path) -> None:
    for words in commands(path.read_text()):
        try:
            require_command(words)
        except (Exception, SystemExit) as e:
            raise AssertionError(f"{shlex.join(words)}: {type(e).__name__}: {e}") from e


def test_commands_are_read_out_of_pages() -> None:
    page = "Type `edgewright ui`, or:\n\n```\nmake test     # all\n$ edgewright store check [--repository URL]\n```\n"
    assert list(commands(page)) == [
        ["make", "test"],
        ["edgewright", "store", "check", "--repository", "URL"],
        ["edgewright", "ui"],
    ]
    assert sum(len(list(commands(path.read_text()))) for path in PAGES) > 80


@pytest.mark.parametrize(
    "line",
    [
        "edgewright depoly m.pt2",
        "edgewright deploy m.pt2 --dta d.npz",
        "python -m edgewright_runtime install URL --rot x",
        "python -m edgewright.nothing",
        "python examples/nothing.py",
        "pip install ./examples/nothing",
        "make nothing",
    ],
)
def test_a_command_that_there_is_not_is_noticed(line: str) -> None:
    with pytest.raises((Exception, SystemExit)):
        require_command(shlex.split(line))
