"""The page of the architecture has the figures that its script counts, and the house has no circles."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def house() -> ModuleType:
    specification = importlib.util.spec_from_file_location("house", ROOT / "benchmarks" / "house.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_page_has_the_figures_of_the_tree(house: ModuleType) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = house.figures()
    assert re.findall(r"\| (\S+) \|$", table, re.MULTILINE) == ["---", "none", "none", "none", "none"]
    old = page.partition("<!-- figures:begin -->\n")[2].partition("<!-- figures:end -->")[0]
    assert house.is_current(old, table), "run `PYTHONPATH=. python benchmarks/house.py`"


@pytest.mark.parametrize(
    ("page", "is_current"),
    [
        ("| `flows` | 100 | 8 / 21 | none |", True),
        ("| `flows` | 104 | 9 / 22 | none |", True),
        ("| `flows` | 106 | 8 / 21 | none |", False),
        ("| `flows` | 100 | 8 / 24 | none |", False),
        ("| `flows` | 100 | 8 / 21 | `flows` |", False),
        ("", False),
    ],
)
def test_a_figure_of_the_page_may_be_a_little_old(house: ModuleType, page: str, is_current: bool) -> None:
    assert house.is_current(page, "| `flows` | 100 | 8 / 21 | none |") is is_current
