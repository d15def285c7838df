"""Tensors and layers of a module by their dotted paths. Imports torch."""

import re
from itertools import chain, count

import torch
from torch import nn

__all__ = ["free_name", "free_place", "place", "plain_path", "tensor_at"]

_INVALID = re.compile(r"[^0-9A-Za-z_.]")


def plain_path(name: str) -> str:
    """A source's own name of a module or tensor as a path that stands in a graph's code."""
    # An empty part (of "a..b", or of a name that begins with a dot) is not an attribute's name.
    return ".".join(part for part in _INVALID.sub("_", name).split(".") if part)


def tensor_at(module: nn.Module, path: str) -> torch.Tensor:
    """The parameter or buffer of that path."""
    owner, _, leaf = path.rpartition(".")
    value: torch.Tensor = getattr(module.get_submodule(owner), leaf)
    return value


def place(module: nn.Module, path: str, thing: nn.Module | torch.Tensor) -> None:
    """Put a layer, a parameter or a buffer at a path, with the modules on the way; what was there gives way."""
    *parents, leaf = path.split(".")
    for part in parents:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    if isinstance(thing, nn.Module):
        module._modules[leaf] = thing
    elif isinstance(thing, nn.Parameter):
        module.register_parameter(leaf, thing)
    else:
        module.register_buffer(leaf, thing)


def free_name(module: nn.Module, path: str) -> str:
    """The path, or the first of ``path_1``, ``path_2``, … at which nothing is."""
    path = _passable(module, path)
    return next(name for name in chain([path], (f"{path}_{n}" for n in count(1))) if not _taken(module, name))


def free_place(module: nn.Module, path: str) -> str:
    """The same for a tensor: of a module's tensors all go to ``module_1``, so that it may become a layer."""
    path = _passable(module, path)
    owner, _, leaf = path.rpartition(".")
    places = (f"{owner}_{n}.{leaf}" if owner else f"{leaf}_{n}" for n in count(1))
    return next(place for place in chain([path], places) if not _taken(module, place))


def _passable(module: nn.Module, path: str) -> str:
    """The path with another name for what is on the way and no module: two names of a source may become one ("a+b.c"
    with a parameter "a_b" beside it)."""
    *owners, leaf = path.split(".")
    passed, inner = list[str](), module
    for owner in owners:
        names = chain([owner], (f"{owner}_{n}" for n in count(1)))
        name = next(n for n in names if isinstance(getattr(inner, n, inner), nn.Module))
        # Where nothing is yet, an empty module stands for it: nothing is on the rest of the way.
        passed, inner = [*passed, name], getattr(inner, name, nn.Module())
    return ".".join([*passed, leaf])


def _taken(module: nn.Module, path: str) -> bool:
    for part in path.split("."):
        if not hasattr(module, part):
            return False
        module = getattr(module, part)
    return True
