"""Which weights of a converted file are those of which layer of the torch graph. Runs in a child process.

Converters rename layers, transpose their weights and fold BatchNorm into them; the values stay. So a layer is found by
a fingerprint that no transposition changes: how many numbers, their sums of sizes and of squares, their extremes.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewright.errors import UnsupportedError

__all__ = ["learnt_ranges", "weights_of_layers"]

# Half precision rounds by 2^-11 of a value; folding a norm by far less.
_TOLERANCE = 2e-3


def learnt_ranges(graph: Path | None) -> dict[str, tuple[float, int]]:
    """{layer: (step, zero point of 0..255)} of the layers' inputs, where a graph was trained for int8; else empty."""
    from safetensors import safe_open

    if graph is None:
        return {}
    with safe_open(str(graph), framework="np") as file:
        document = json.loads((file.metadata() or {}).get("edgewright_graph", "{}"))
    return {layer: (float(step), int(zero)) for layer, (step, zero) in document.get("input_ranges", {}).items()}


def weights_of_layers(
    graph: Path, layers: Iterable[str], weights: Mapping[str, NDArray[Any]], noisy: Iterable[str] = ()
) -> dict[str, set[str]]:
    """For each of the graph's ``layers`` the names of those of the file's ``weights`` that hold its weights; of the
    ``noisy`` ones too, without those that the converter has changed.

    Raises:
        UnsupportedError: the graph has no such layer, or the file no such weight.
    """
    from edgewright.intake import torch_graph
    from edgewright.optimize.fuse import fuse
    from edgewright.optimize.training import weight_names

    model = torch_graph.load(graph)
    # As they are in the graph, and with BatchNorm folded in: converters differ in whether they fold it.
    tensors = [dict(m.named_parameters()) for m in (model, fuse(model))]
    known = [name.removesuffix(".weight") for name in weight_names(model)]
    prints = {name: _fingerprint(values) for name, values in weights.items()}
    names_by_layer: dict[str, set[str]] = {}
    wanted = tuple(layers)
    for layer in (*wanted, *noisy):
        if layer not in known:
            raise UnsupportedError(f"the model has no layer '{layer}'; it has: {', '.join(known)}")
        forms = [_fingerprint(t[f"{layer}.weight"].detach().numpy()) for t in tensors if f"{layer}.weight" in t]
        alike = {name for name, other in prints.items() if any(_alike(form, other) for form in forms)}
        # A layer that was asked for must stay float; one that merely brings noise may be passed over.
        if not alike and layer in wanted:
            raise UnsupportedError(f"the converted file holds no weight with the values of '{layer}'")
        names_by_layer[layer] = alike
    return names_by_layer


def _fingerprint(values: NDArray[Any]) -> tuple[int, NDArray[np.float64]]:
    flat = values.astype(np.float64).reshape(-1)
    if not flat.size:
        return 0, np.zeros(4)
    return flat.size, np.array([np.abs(flat).sum(), np.sqrt((flat**2).sum()), flat.min(), flat.max()])


def _alike(one: tuple[int, NDArray[np.float64]], other: tuple[int, NDArray[np.float64]]) -> bool:
    # A sum near zero, or an extreme, is held against the largest of the four: its own size is all rounding.
    scale = np.maximum(np.abs(one[1]), np.abs(one[1]).max() * 1e-3) if one[0] else 1.0
    return one[0] == other[0] and bool((np.abs(one[1] - other[1]) <= _TOLERANCE * scale).all())
