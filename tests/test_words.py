"""One word for one thing: what the glossary puts aside stands nowhere else."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GLOSSARY = ROOT / "docs" / "glossary.md"
FOLDERS = (
    *("edgewright", "edgewright_runtime", "flows", "tasks", "mlflow_server", "profiles"),
    *("docs", "examples", "tests", "benchmarks"),
)
ENDINGS = {".py", ".md", ".yaml", ".html", ".css", ".kt", ".swift", ".txt"}


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
    pattern = re.compile(r"(?<!there )\b" + r"\s+".join(map(re.escape, word.split())) + r"\b", re.IGNORECASE)
    found = [str(path) for path, text in texts() if pattern.search(text)]
    assert not found, f"'{word}' stands in {', '.join(found)}: the word is '{instead}'"


HOW_IT_CAME = {"found", "made", "said", "told", "kept", "left"}  # what it is says more
DIRECTIONS = {"right", "rights", "floor", "up"}  # beside one of these, `left` is a side
CODE = ("edgewright", "edgewright_runtime", "flows", "tasks", "mlflow_server")


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text())


def variables(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names that functions assign or take, and their line; fields of classes are words of files, and no variables."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        names = [(node.arg, node.lineno) for node in ast.walk(function) if isinstance(node, ast.arg)]
        names += [
            (node.id, node.lineno)
            for node in ast.walk(function)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        ]
        beside = {name for name, _ in names} | {
            node.arg for node in ast.walk(function) if isinstance(node, ast.keyword) and node.arg
        }
        yield from ((name, line) for name, line in names if name != "left" or not beside & DIRECTIONS)


def test_variables_say_what_they_are() -> None:
    places = [f"{path}:{line} {name}" for path, tree in modules() for name, line in variables(tree)]
    assert not [place for place in places if place.rpartition(" ")[2] in HOW_IT_CAME]


def types(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Public classes and aliases of types at a module's top: name and definition, a class by its line."""
    for node in tree.body:
        match node:
            case ast.ClassDef(name=name) if not name.startswith("_"):
                yield name, f"class at line {node.lineno}"
            case ast.Assign(targets=[ast.Name(id=name)]) if re.fullmatch(r"[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*", name):
                yield name, ast.unparse(node.value)


# Arrays by name; some may be changed, some are of floats alone.
SEVERAL_FORMS = {"Arrays"}


def test_the_name_of_a_type_means_one_thing() -> None:
    places: dict[str, dict[str, str]] = {}
    for path, tree in modules():
        for name, definition in types(tree):
            # Two classes differ, be they written alike; the same alias may stand in two modules.
            places.setdefault(name, {})[f"{path} {definition}" if "class" in definition else definition] = str(path)
    several = {name: sorted(of.values()) for name, of in places.items() if len(of) > 1 and name not in SEVERAL_FORMS}
    assert not several


def test_the_glossary_has_each_term_once_and_in_order() -> None:
    terms, _, _ = GLOSSARY.read_text().partition("| not | but |")
    names = [line.split("|")[1].strip() for line in terms.splitlines() if line.startswith("| ")][1:]
    assert names == sorted(set(names), key=str.lower)
    assert len(names) > 20


# Third persons that are not also plurals ("Runs side by side", "Counts of terms").
SAYS_WHAT_IT_DOES = re.compile(
    r"(Applies|Asks|Builds|Compares|Computes|Converts|Creates|Decides|Does|Finds|Gets|Gives|Has|Holds|Is|It|Judges"
    r"|Keeps|Loads|Makes|Measures|Opens|Puts|Raises|Reads|Refuses|Removes|Returns|Saves|Says|Sends|Stops"
    r"|Runs the|Runs a|Takes|Tells|Travels|Writes)\b"
)


def test_docstrings_are_imperatives_or_nouns() -> None:
    documented = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    places = [
        f"{path}:{node.lineno} {text.splitlines()[0]}"
        for path, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, documented) and (text := ast.get_docstring(node)) and SAYS_WHAT_IT_DOES.match(text)
    ]
    assert not places


def test_bounds_are_min_and_max() -> None:
    bound = re.compile(r"_?(OWN_)?(LEAST|MOST)_[A-Z0-9_]+")
    assert not [
        f"{path}:{node.lineno} {node.id}"
        for path, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and bound.fullmatch(node.id)
    ]
