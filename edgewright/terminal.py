"""What is printed for people: text of users, a path or a column's name, is never taken for markup."""

from rich.console import Console
from rich.text import Text

__all__ = ["begun", "terminal"]


def terminal(*, stderr: bool = False) -> Console:
    """A console that prints every text as it stands: ``[/x]`` in a name ends in no error, ``:x:`` in no picture."""
    return Console(stderr=stderr, markup=False, emoji=False)


def begun(word: str, message: str, style: str = "red") -> Text:
    """A line that begins with a word in a colour."""
    return Text.assemble((word, style), " ", message)
