"""Searches that cost one export or one evaluation a try, so they try few."""

from collections.abc import Callable

__all__ = ["fewest"]


def fewest(most: int, passes: Callable[[int], bool]) -> int | None:
    """The least of 1..most for which ``passes`` holds, where more is never worse; None where even ``most`` fails.

    Doubles until it passes, then halves the gap: about 2 log2 of the answer tries.
    """
    failed, tried = 0, min(1, most)
    while tried and not passes(tried):
        if tried == most:
            return None
        failed, tried = tried, min(2 * tried, most)
    if not tried:
        return None
    while tried - failed > 1:
        between = (failed + tried) // 2
        if passes(between):
            tried = between
        else:
            failed = between
    return tried
