"""Text of others, such as a column's, a label's or a layer's name, where it must be read as nothing but text."""

import re

__all__ = ["csv_text", "markdown_text", "without_password"]

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def markdown_text(text: str) -> str:
    """In Markdown: on one line, and shown as it is."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(text.split()))


def csv_text(text: str) -> str:
    """In a table that a spreadsheet opens: never a formula (OWASP, CSV Injection)."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def without_password(url: str) -> str:
    """A database's or server's URL as it may be shown, however it is mistyped.

    >>> without_password("postgresql://user:secret@host:5432/name?sslmode=disable")
    'postgresql:…@host:5432/name'
    >>> without_password("postgresql://host/name?password=sec@ret")
    'postgresql:…'
    >>> without_password("sqlite:////var/lib/edgewright.db")
    'sqlite:////var/lib/edgewright.db'
    """
    scheme, colon, rest = url.partition(":")
    # A query may hold a password, too, and an @ in it.
    _, at, place = rest.partition("?")[0].rpartition("@")
    if scheme.startswith("sqlite") or not colon or not ("@" in rest or scheme.startswith("postgres")):
        return url
    # Without an @ the rest may be a password as it stands.
    return f"{scheme}:…{at}{place if at else ''}"
