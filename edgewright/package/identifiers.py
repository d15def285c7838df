"""Names of others as identifiers, literals and comments of Swift and Kotlin, and numbers as their literals."""

import json
import re
from collections.abc import Iterable
from typing import Literal

__all__ = ["argument_names", "float_literal", "remark", "text_literal", "type_name"]

_Language = Literal["kotlin", "swift"]

# Keywords of either language: the Swift book's "Keywords and Punctuation", and Kotlin's hard keywords.
_KEYWORDS = """
Any Protocol Self Type actor as associatedtype async await break case catch class continue default defer deinit do else
enum extension fallthrough false fileprivate for fun func guard if import in init inout interface internal is it let
nil null object open operator package precedencegroup private protocol public repeat rethrows return self static struct
subscript super switch this throw throws true try typealias typeof val var when where while
"""
# What the method that takes the arguments calls or declares itself.
_USED = "buffer i mapOf require run steps value"
_RESERVED = frozenset((*_KEYWORDS.split(), *_USED.split()))
# Types that the templates use, or declare within the class.
_TAKEN_TYPES = """
Any Array AutoCloseable Boolean Bool Bundle ByteArray ByteBuffer ByteOrder CGImage Character Class Column Context
Data Double Error Float FloatArray HashMap Int Int8 Int32 Int64 IntArray Interpreter JSONArray JSONObject
JSONSerialization List Locale Long LongArray MLDictionaryFeatureProvider MLFeatureValue MLModel MLMultiArray Map
Math NSNumber NSRange NSRegularExpression Normalizer Number Pair Prediction Protocol Range Regex Self Set String
Substring Type UCharacter URL Unicode Unit
"""
_ENDINGS = ("", "Array", "Buffer")  # the local variables that are made of an argument


def argument_names(names: Iterable[str]) -> tuple[str, ...]:
    """One argument a name, in order: ASCII, no keyword, and no two alike, nor alike what is made of another."""
    given, taken = list[str](), set[str]()
    for name in names:
        plain = chosen = _identifier(name)
        count = 1
        # Its locals too: an argument `imageBuffer` would collide with what the code makes of `image`.
        while taken & {chosen + ending for ending in _ENDINGS}:
            count += 1
            chosen = f"{plain}_{count}"
        taken |= {chosen + ending for ending in _ENDINGS}
        given.append(chosen)
    return tuple(given)


def type_name(name: str) -> str:
    """The class of a model of that name, which is not a type that the code needs."""
    joined = "".join(word[0].upper() + word[1:] for word in re.findall(r"[A-Za-z0-9]+", name))
    # Nothing of the name is ASCII, or it begins with a digit.
    if not joined[:1].isalpha() or joined in _TAKEN_TYPES.split():
        return f"Model{joined}"
    return joined


def float_literal(number: float, suffix: str = "") -> str:
    """A number as a literal; ``suffix`` is Kotlin's ``f``, without which it would be a Double."""
    return f"{float(number)!r}{suffix}"


def text_literal(text: str, language: _Language) -> str:
    """A text as a string literal, quotes included."""
    escaped = "".join(_escaped(c, language) for c in text)
    return f'"{escaped}"'


def remark(text: str) -> str:
    """A text within a comment: on one line, and unable to end the comment."""
    # Line ends of every script, as U+2028, are not printable either.
    shown = "".join(c if c.isprintable() else " " for c in text)
    for ending in ("*/", "/*", '"""'):
        # Until none is left: of five quotes in a row, three stand together again after the first separation.
        while ending in shown:
            shown = shown.replace(ending, f"{ending[:1]} {ending[1:]}")
    return shown


def _escaped(character: str, language: _Language) -> str:
    # Kotlin interpolates, Swift knows no such escape.
    if character in '"\\' or (character == "$" and language == "kotlin"):
        return f"\\{character}"
    if character.isprintable():
        return character
    # Kotlin escapes UTF-16 units, \uXXXX and pairs of them above U+FFFF, as JSON does.
    return f"\\u{{{ord(character):x}}}" if language == "swift" else json.dumps(character)[1:-1]


def _identifier(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
    if plain[:1].isalpha() and plain not in _RESERVED:
        return plain
    return f"input_{plain}" if plain else "input"
