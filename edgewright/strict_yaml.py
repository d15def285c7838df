"""YAML that means what it says, and costs no more than its length: what a person reads otherwise than YAML is refused.

A key that stands twice is refused, where YAML takes the last; so is a number that YAML takes for another one (``010``
is 8 there, ``12:30`` is 750, ``12:30.5`` is 750.5). A number keeps how it was written (``1.10``), for where a text is
meant. Depth, and what aliases multiply, are bounded before anything is made of it.
"""

from collections.abc import Hashable
from typing import Any

import yaml

__all__ = ["WrittenFloat", "WrittenInt", "YamlError", "parse_yaml"]

_MAX_DEPTH = 32
_MAX_NODES = 50_000  # more than the largest sets of labels; an alias counts as what it stands for
_MAX_DIGITS = 500  # more than a float64 written out in full
_INTEGER, _FLOAT, _MERGE = (f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "merge"))
_ANOTHER_NUMBER = "{} is another number in YAML: put a text into quotes, or write digits alone"


class YamlError(ValueError):
    """Text that is not YAML, or not within its limits; in one line."""


def parse_yaml(text: str) -> Any:
    """The one document of a text, made of Python's plain values.

    Raises:
        YamlError: what is wrong with it, and where.
    """
    try:
        # As events first, which the parser gives without recursion; composing nodes recurses.
        _require_shallow(text)
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            if root is None:
                return None
            # Before construction, where merge keys copy what aliases stand for and a bomb goes off.
            _Nodes().require_within_limits(root, 0)
            return loader.construct_document(root)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as e:
        message = ": ".join(part for part in (e.context, e.problem) if part)
        if e.problem and r"'\t'" in e.problem:  # JSON may have them
            message = "a tab, where YAML takes spaces only"
        raise YamlError(f"{_line(e.problem_mark)}{' '.join(message.split())}") from e
    except yaml.YAMLError as e:
        raise YamlError(str(e).splitlines()[0]) from e


class WrittenInt(int):
    """An integer whose ``text`` in the file is another one than Python's: ``0x1F``."""

    text: str


class WrittenFloat(float):
    """A real number whose ``text`` in the file is another one than Python's: ``1.10``."""

    text: str


class _Loader(yaml.SafeLoader):
    """PyYAML's own, but for what a person would read otherwise; errors of Python's types name their line."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, OverflowError) as e:  # the 99th of a month
            raise _refused(node, str(e)) from e
        except (LookupError, AttributeError, TypeError) as e:  # `!!bool maybe`: of a tag that its value does not fit
            kind = node.tag.rpartition(":")[2]
            raise _refused(node, f"{str(node.value)[:80]!r} cannot be read as {kind}") from e

    def construct_written_int(self, node: yaml.ScalarNode) -> Any:
        return _as_written(WrittenInt, self.construct_yaml_int(node), node)

    def construct_written_float(self, node: yaml.ScalarNode) -> Any:
        return _as_written(WrittenFloat, self.construct_yaml_float(node), node)


_Loader.add_constructor(_INTEGER, _Loader.construct_written_int)
_Loader.add_constructor(_FLOAT, _Loader.construct_written_float)


def _as_written(kind: Any, number: Any, node: yaml.ScalarNode) -> Any:
    text = node.value.removeprefix("+")  # which changes no number
    if str(number) == text:
        return number
    written = kind(number)
    written.text = text
    return written


class _Nodes:
    """What a document's nodes come to; recursive aliases and those that multiply reach a limit."""

    def __init__(self) -> None:
        self._seen = 0

    def require_within_limits(self, node: yaml.Node, depth: int) -> None:
        self._seen += 1
        if depth > _MAX_DEPTH:
            raise _refused(node, f"nested deeper than {_MAX_DEPTH}")
        if self._seen > _MAX_NODES:
            raise _refused(node, f"more than {_MAX_NODES} values, counting what aliases stand for")
        if isinstance(node, yaml.MappingNode):
            _require_single(node)
            for pair in node.value:
                for part in pair:
                    self.require_within_limits(part, depth + 1)
        elif isinstance(node, yaml.SequenceNode):
            for part in node.value:
                self.require_within_limits(part, depth + 1)
        elif isinstance(node, yaml.ScalarNode) and node.tag == _INTEGER:
            _require_plain(node)
        # The same in real numbers: 12:30.5 is in base 60, 1_000.5 has a separator.
        elif isinstance(node, yaml.ScalarNode) and node.tag == _FLOAT and not {":", "_"}.isdisjoint(node.value):
            raise _refused(node, _ANOTHER_NUMBER.format(node.value))


def _require_shallow(text: str) -> None:
    """Refuse depth and number while the text is read: the library needs the square of it in time, and the stack."""
    depth = 0
    for seen, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            raise _refused(event, f"nested deeper than {_MAX_DEPTH}")
        if seen > 2 * _MAX_NODES:  # a collection has two events
            raise _refused(event, f"more than {_MAX_NODES} values")


def _require_single(node: yaml.MappingNode) -> None:
    seen: set[Hashable] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
            # By tag too: 1 and '1' are two keys.
            if (key.tag, key.value) in seen:
                raise _refused(key, f"key '{key.value[:80]}' stands twice")
            seen.add((key.tag, key.value))


def _require_plain(node: yaml.ScalarNode) -> None:
    digits = node.value.lstrip("+-")
    if len(digits) > _MAX_DIGITS:
        raise _refused(node, f"an integer of {len(digits)} digits")
    # YAML 1.1: 010 is octal, 1_000 has a separator, 12:30 is in base 60.
    plain = digits.isdecimal() and (digits == "0" or not digits.startswith("0"))
    if not plain and not digits.lower().startswith(("0x", "0b")):
        raise _refused(node, _ANOTHER_NUMBER.format(node.value))


def _refused(at: yaml.Node | yaml.Event, problem: str) -> yaml.MarkedYAMLError:
    mark: Any = at.start_mark  # of the parser in Python, or of that in C
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _line(mark: yaml.Mark | None) -> str:
    return f"line {mark.line + 1}: " if mark is not None else ""
