"""Hooks of mkdocs: tables of keys from the models that read them, and links out of the pages' folder.

A line ``<!-- keys: module:Class -->`` becomes the table of what such a YAML file may say.
"""

import html
import importlib
import re
from typing import Any

_KEYS = re.compile(r"^<!-- keys: ([\w.]+):(\w+) -->$", re.MULTILINE)
_OUTSIDE = re.compile(r"\]\(\.\./(?!\.)([^)#]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with its tables; what it links to beside the pages is named, since the site does not hold it."""
    if "/" not in page.file.src_uri:
        markdown = _OUTSIDE.sub(lambda found: f"] (`{found[1]}`)", markdown)
    return _KEYS.sub(lambda found: _table(found[1], found[2]), markdown)


def _table(module: str, name: str) -> str:
    from edgewright.pipeline.schema import keys_of

    kind = getattr(importlib.import_module(module), name)
    rows = [f"| `{key.name}` | {_cell(key.allowed)} | {_cell(key.meaning)} |" for key in keys_of(kind, None)]
    return "\n".join(["| key | allowed | meaning |", "|---|---|---|", *rows])


def _cell(text: str) -> str:
    return " ".join(re.sub(r"([|\[\]*_])", r"\\\1", html.escape(text, quote=False)).split())
