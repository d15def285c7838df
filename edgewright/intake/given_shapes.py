"""Sizes that a user gives for the free axes of inputs (``--shape``). No ML framework is imported here."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgewright.errors import InputError
from edgewright.intake.tensor_names import plain_name

__all__ = ["input_sizes"]

DeclaredSizes = Sequence[int | str]
"""The size of each axis as a model declares it; a text is the name of a free one, or empty."""


def input_sizes(
    declared: Mapping[str, DeclaredSizes], given: Mapping[str, Sequence[int]], path: Path
) -> dict[str, tuple[int, ...]]:
    """Every size of each input but the first, which is -1 where it is free.

    Inputs have the names that `plain_name` makes; a size may be given under that or under the model's own.

    Raises:
        InputError: a size is given for no input of the model, for a fixed axis, or is missing.
    """
    # By either name that a user may write, the model's own and the one made of it.
    by_name = {plain_name(name): sizes for name, sizes in given.items()}
    unknown = sorted(name for name in given if plain_name(name) not in declared)
    if unknown:
        takes = ", ".join(f"{name} {_described(sizes)}" for name, sizes in declared.items())
        raise InputError(f"{path}: --shape {unknown[0]}: no such input; it takes {takes}")
    return {name: _sizes(name, sizes, by_name.get(name), path) for name, sizes in declared.items()}


def _described(sizes: DeclaredSizes) -> str:
    """``(free, 3, 224)``."""
    return f"({', '.join(str(s) if isinstance(s, int) else 'free' for s in sizes)})"


def _sizes(name: str, declared: DeclaredSizes, given: Sequence[int] | None, path: Path) -> tuple[int, ...]:
    if given is not None:
        _refuse_other_than_declared(name, declared, given, path)
    sizes = [-1 if isinstance(size, str) else size for size in declared]
    for axis, size in enumerate(declared):
        if axis == 0 or not isinstance(size, str):
            continue
        if given is None:
            called = f" ({size})" if size else ""
            raise InputError(
                f"{path}: input '{name}', axis {axis} has a free size{called}; give it: --shape {name}=1,..."
            )
        sizes[axis] = given[axis]
    return tuple(sizes)


def _refuse_other_than_declared(name: str, declared: DeclaredSizes, given: Sequence[int], path: Path) -> None:
    asked = f"{path}: --shape {name}={','.join(map(str, given))}: input '{name}' is {_described(declared)}"
    if len(given) != len(declared):
        raise InputError(f"{asked} and has {len(declared)} axes; --shape gives {len(given)}: give a size for each")
    # The first axis of --shape stands for one row; the size of a batch is not given there.
    if isinstance(declared[0], str) and given[0] != 1:
        raise InputError(f"{asked}; its first axis holds the rows and stays free: give 1 there")
    for axis, (size, wanted) in enumerate(zip(declared, given, strict=True)):
        # The first axis may be given as 1 even where the model fixes it otherwise: it stands for a row.
        if not isinstance(size, str) and wanted != size and (axis or wanted != 1):
            free = [str(place) for place, s in enumerate(declared) if place and isinstance(s, str)]
            can = f"only axis {' and '.join(free)} can be given a size" if free else "none of its axes can be given one"
            raise InputError(f"{asked}: axis {axis} is fixed in the model, {can}; export it with that axis free")
