"""Whether a truth that an application tells is the label that the model gave."""

from __future__ import annotations

from typing import Any

from edgewright_runtime.bundle.number_text import number_in

__all__ = ["is_label"]


def is_label(truth: Any, label: str) -> bool:
    """By text, or by number where both are one: class 10 is also ``10.0``, and ``"10"``; true is class 1.

    Two texts of digits are two classes where they differ: ``1`` and ``01``.
    """
    if str(truth) == label:
        return True
    if isinstance(truth, str) and truth.lstrip("-").isdigit() and label.lstrip("-").isdigit():
        return False
    try:
        # bool and numpy's numbers have a float, too; a label that is not a number ends in ValueError.
        return (number_in(truth) if isinstance(truth, str) else float(truth)) == number_in(label)
    except (TypeError, ValueError, OverflowError):
        return False
