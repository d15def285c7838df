"""Which ways of cutting a text into terms an app's own code can follow exactly. No ML framework is imported here."""

from edgewright.errors import UnsupportedError
from edgewright_runtime.bundle.manifest import Words

__all__ = ["refuse_unportable"]

# scikit-learn's own token pattern, and the one for words of a single letter: runs of letters, digits and underscores.
_PATTERNS = (r"(?u)\b\w\w+\b", r"(?u)\b\w+\b")


def refuse_unportable(words: Words, platform: str) -> None:
    """Refuse a token pattern that the regular expressions of Swift and Kotlin may read otherwise than Python's.

    Raises:
        UnsupportedError: on a phone, a pattern besides the known ones.
    """
    if platform == "edge_device" or words.analyzer != "word" or words.pattern in _PATTERNS:
        return
    raise UnsupportedError(
        f"the vectorizer's token_pattern {words.pattern!r} has no path to {platform}, whose regular expressions read "
        "letters otherwise than Python's; leave token_pattern out, or deploy to an edge_device"
    )
