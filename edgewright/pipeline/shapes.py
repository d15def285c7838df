"""Sizes of a model's free axes, as the command line's ``--shape`` gives them."""

from collections.abc import Sequence

from edgewright.errors import InputError

__all__ = ["parse_shapes"]


def parse_shapes(texts: Sequence[str]) -> dict[str, dict[str, tuple[int, ...]]]:
    """``["ids=1,32|64", "mask=1,32|64"]`` as ``{"32": {"ids": (1, 32), "mask": (1, 32)}, "64": ...}``.

    Each key says which of several sizes are chosen, and is empty where there is one choice. Whatever has several sizes
    changes together, first with first.

    Raises:
        InputError: not such a text, an input that is named twice, or different numbers of sizes.
    """
    given: dict[str, list[list[int]]] = {}
    for text in texts:
        name, sizes = _sizes(text)
        if name in given:
            raise InputError(f"--shape {text}: '{name}' is given twice; several sizes stand in one: {name}=1,32|64")
        given[name] = sizes
    counts = sorted({len(choices) for sizes in given.values() for choices in sizes if len(choices) > 1})
    if len(counts) > 1:
        raise InputError(
            f"--shape {' '.join(texts)}: sizes change together, first with first, so each needs as many; found "
            f"{' and '.join(str(count) for count in counts)}"
        )
    shapes = {}
    for number in range(counts[0] if counts else 1):
        # Those with one size are the same in every choice.
        varied = [choices[number] for sizes in given.values() for choices in sizes if len(choices) > 1]
        # A size that several axes share names the choice once: ids and mask of 32 give `32`.
        shapes["x".join(str(size) for size in dict.fromkeys(varied))] = {
            name: tuple(choices[number if len(choices) > 1 else 0] for choices in sizes)
            for name, sizes in given.items()
        }
    if counts and len(shapes) < counts[0]:
        raise InputError(f"--shape {' '.join(texts)}: the same sizes stand there twice")
    return shapes


def _sizes(text: str) -> tuple[str, list[list[int]]]:
    """An input's name, and the choices for each axis."""
    name, _, sizes = text.partition("=")
    try:
        axes = [[int(size) for size in axis.split("|")] for axis in sizes.split(",")]
    except ValueError:
        axes = []
    if not name or not axes or min(size for axis in axes for size in axis) < 1:
        raise InputError(
            f"--shape {text}: expected the input's name and its sizes, such as image=1,3,224,224, or ids=1,32|64 for a "
            "file of each"
        )
    return name, axes
