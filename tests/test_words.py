"""One word for one thing: what the glossary puts aside stands nowhere else."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GLOSSARY = ROOT / "docs" / "glossary.md"
FOLDERS = ("edgewright", "edgewright_runtime", "flows", "tasks", "mlflow_server", "profiles", "docs", "examples")
ENDINGS = {".py", ".md", ".yaml"}


def put_aside() -> list[tuple[str, str]]:
    """(word, the word for it), by the second table of the glossary."""
    _, _, table = GLOSSARY.read_text().partition("| not | but |\n|---|---|\n")
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("|")]
    return [(word.strip(), instead.strip()) for words, instead in rows for word in words.split(",")]


def texts() -> Iterator[tuple[Path, str]]:
    for path in [ROOT / "README.md", *(p for folder in FOLDERS for p in sorted((ROOT / folder).rglob("*")))]:
        if path.suffix in ENDINGS and path != GLOSSARY and ".venv" not in path.parts:
            yield path.relative_to(ROOT), path.read_text()


@pytest.mark.parametrize(("word", "instead"), put_aside(), ids=lambda value: value)
def test_a_word_that_was_put_aside_stands_nowhere(word: str, instead: str) -> None:
    pattern = re.compile(r"\b" + r"\s+".join(map(re.escape, word.split())) + r"\b", re.IGNORECASE)
    found = [str(path) for path, text in texts() if pattern.search(text)]
    assert not found, f"'{word}' stands in {', '.join(found)}: the word is '{instead}'"


HOW_IT_CAME = {"found", "made", "said", "told", "kept"}  # what it is says more
CODE = ("edgewright", "edgewright_runtime", "flows", "tasks", "mlflow_server")


def variables(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names that functions assign and their line; fields of classes are words of files, and no variables."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    yield node.id, node.lineno


def test_variables_say_what_they_are() -> None:
    places = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for folder in CODE
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name, line in variables(ast.parse(path.read_text()))
        if name in HOW_IT_CAME
    ]
    assert not places


def test_the_glossary_has_each_term_once_and_in_order() -> None:
    terms, _, _ = GLOSSARY.read_text().partition("| not | but |")
    names = [line.split("|")[1].strip() for line in terms.splitlines() if line.startswith("| ")][1:]
    assert names == sorted(set(names), key=str.lower)
    assert len(names) > 20
