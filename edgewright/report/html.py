"""Self-contained pages: without script and without anything from the network, every text of others escaped."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from edgewright.report.charts import STYLE, Chart

__all__ = ["Header", "Part", "Section", "TextTable", "page", "pill"]

_TEMPLATES = Path(__file__).parent / "templates"


class TextTable(NamedTuple):
    """Rows of text; the first column names its row. Without ``heads`` it has none, without rows it is left out."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __bool__(self) -> bool:
        return bool(self.rows)


Part = TextTable | Chart | str


class Section(NamedTuple):
    """A titled part of the page; an empty one is left out. Text is a paragraph; `Markup` is taken as it is."""

    title: str
    parts: Sequence[Part]

    @property
    def shown(self) -> list[Part]:
        """The parts that hold anything."""
        return [part for part in self.parts if part]


class Header(NamedTuple):
    """The verdict, ``met`` or ``missed`` by ``kind``, and lists below it by their CSS class."""

    kind: str
    word: str
    sentence: str = ""
    lists: Sequence[tuple[str, Sequence[str]]] = ()


def page(title: str, sections: Sequence[Section], header: Header | None = None) -> str:
    """The page: verdict first, then its sections."""
    # Our own files: escaped, their quotes and angle brackets would be no CSS.
    style = Markup("\n").join(Markup(path.read_text()) for path in (STYLE, _TEMPLATES / "page.css"))  # noqa: S704
    return _template().render(title=title, header=header, sections=[s for s in sections if s.shown], style=style)


def pill(word: str, kind: str) -> Markup:
    """A word on a coloured ground; ``kind`` is its CSS class."""
    return Markup('<span class="pill {}">{}</span>').format(kind, word)


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html")
