"""Text of others, such as a column's, a label's or a layer's name, where it must be read as nothing but text."""

import re

__all__ = ["csv_text", "markdown_text"]

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def markdown_text(text: str) -> str:
    """In Markdown: on one line, and shown as it is."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(text.split()))


def csv_text(text: str) -> str:
    """In a table that a spreadsheet opens: never a formula (OWASP, CSV Injection)."""
    return f"'{text}" if text.startswith(_FORMULA) else text
