"""Patterns of tokens: what people write is taken, and nothing that a text could hold a device up with."""

import random
import re

import pytest

from edgewright_runtime.bundle.token_pattern import token_pattern
from edgewright_runtime.errors import IntegrityError

TAKEN = [
    "",
    r"(?u)\b\w\w+\b",
    r"(?u)\b(\w+)s\b",
    r"(?ui)\b\w*[a-z]+\w*\b",
    r"(?u)\b[a-zA-Z]{2,}\b",
    r"\w+|\$[\d\.]+|\S+",
    r"[A-Za-z]+(?:'[a-z]+)?",
    r"\b\w+(?:-\w+)*\b",
    r"[a-z]+(?:[-'][a-z]+)*",
    r"(?:[a-z]\.)+[a-z]?",
    r"#\w+|@\w+|\w+(?:['\u2019]\w+)?",
    r"\d+\.\d+\.\d+\.\d+",
    r"[A-Z]+-\d+-\d+-\d+",
    r"(?:\d+,)*\d+|\w+",
    r"(?<!\w)\w+(?!\w)",
    r"(?:(?!\d)\w)+",
    r"https?://\S+|\w+",
    r"[\u4e00-\u9fff]|[^\W\d_]+",
    r"(?s).+",
]
REFUSED = [
    r"(\w+)*!",
    r"(?:\w+-?)*!",
    r"(?:-?\w+)*!",
    r"(?:\w+(?=-))*!",
    r"(?:[^-]+[-a])*!",
    r"(?:\s*\w*)*!",
    r"(?:\w?)*!",
    r"(a|aa)*!",
    r"(?:ab|\wb)*!",
    r"(?:(?:ab|\wb)-?){2,30}!",
    r"(?:\w{1,9}){1,9}!",
    "a?" * 30 + "a" * 30,
    "(?:ab|[a-c]b)" * 30 + "!",
    r"\w*\w*\w*\w*\w*!",
    r"(\w)\1*!",
    r"(?:a+\u0130)*(?i:x)(?:(?i:k)+k)*!",
    r"(?a:(?:\W+\u65e5)*)!",  # in ASCII an ideograph is none of \w
    "(?:" * 5 + "a{1,2}b" + "){1,2}" * 5,
]


def adversarial() -> list[str]:
    parts = ["a", "-", "ab", "a-", "-a", "a'", "1.", "1,", " a", "\u65e5", "\u4e00"]
    return [part * 40 + end for part in parts for end in ("", "!", "-", "\n")]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("pattern", TAKEN)
def test_what_people_write_is_taken_and_ends_on_every_text(pattern: str) -> None:
    assert token_pattern(pattern) == pattern
    for text in adversarial():
        re.findall(pattern, text)


@pytest.mark.parametrize("pattern", REFUSED)
def test_what_may_take_a_time_without_limit_is_refused(pattern: str) -> None:
    with pytest.raises(IntegrityError, match=r"^manifest: the token pattern .* may take a time without limit"):
        token_pattern(pattern)


ATOMS = ["a", "b", "-", "!", r"\w", r"\W", r"\s", "[ab]", "[-!]", "[^-]", "[^a]", ".", " ", r"\d", "[!-a]"]
REPEATS = ["*", "+", "?", "{2,3}", "{1,9}", "*?", "+?"]


def random_pattern(rng: random.Random, depth: int) -> str:
    kind = rng.random() if depth else 0.0
    if kind < 0.35:
        return rng.choice(ATOMS)
    part = random_pattern(rng, depth - 1)
    if kind < 0.6:
        return part + random_pattern(rng, depth - 1)
    if kind < 0.68:
        return f"(?:{part}|{random_pattern(rng, depth - 1)})"
    return f"(?={part})" if kind < 0.71 else f"(?:{part}){rng.choice(REPEATS)}"


@pytest.mark.timeout(120)
def test_of_random_patterns_each_that_is_taken_ends() -> None:
    rng, counts = random.Random(0), {"taken": 0, "refused": 0}
    texts = adversarial()
    while counts["taken"] < 2000:
        pattern = random_pattern(rng, 5) + rng.choice(["", "!", "-", "$", "b"])
        try:
            token_pattern(pattern)
        except IntegrityError:
            counts["refused"] += 1
            continue
        counts["taken"] += 1
        for text in texts:
            re.search(f"(?:{pattern})\\Z", text)
    assert counts["refused"] > 200


def test_long_pattern_is_refused() -> None:
    with pytest.raises(IntegrityError, match="has 1,001 characters, at most 1,000"):
        token_pattern("a" * 1001)
