"""The documentation: every technique has its keys there, and what the tutorial says to type works as it stands."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from edgewright.recipe import Technique

DOCS = Path(__file__).parents[1] / "docs"
TUTORIAL = ("first-deployment", "own-model", "own-device", "own-recipe", "own-metric", "python")
_BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
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
