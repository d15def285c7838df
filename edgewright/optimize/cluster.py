"""Weight sharing by k-means, as in Deep Compression (Han, Mao, Dally, arXiv 1510.00149): one codebook a tensor, or one
for the model, its values then fine-tuned by gradient. Runs in a child process: imports torch.

One-dimensional k-means has an optimal solution by dynamic programming (Wang and Song, Ckmeans.1d.dp, 2011). It is
found here on a histogram of 2,048 bins of equal count, and is exact where a tensor has no more distinct values than
that; Lloyd's iterations over all values follow, each of which costs only k searches in the sorted values.
"""

import copy

import numpy as np
import torch
from torch import nn

from edgewright.errors import UnsupportedError
from edgewright.optimize.training import Rows, Tensors, fit, weight_names
from edgewright.recipe import Cluster

__all__ = ["cluster", "codebook"]

_BINS = 2048
_ITERATIONS = 300


def cluster(model: nn.Module, params: Cluster, rows: Rows | None) -> nn.Module:
    """A copy of ``model`` whose weights take at most ``params.clusters`` values for each tensor, or in all.

    Weights that are zero stay zero, and zero is then one of the values.

    Raises:
        UnsupportedError: no linear or convolution layer, or training is asked for without rows.
    """
    original, model = model, copy.deepcopy(model)
    weights = {n: p for n, p in model.named_parameters() if n in set(weight_names(model))}
    if not weights:
        raise UnsupportedError("cluster: the network has no linear or convolution layer; leave this technique out")
    groups = [list(weights)] if params.scope == "model" else [[name] for name in weights]
    shared: dict[str, tuple[int, torch.Tensor]] = {}
    books = []
    for number, names in enumerate(groups):
        values = np.concatenate([weights[n].detach().numpy().ravel() for n in names])
        book = _with_zero(values, params)
        books.append(nn.Parameter(torch.from_numpy(book)))
        for name in names:
            shared[name] = (number, torch.from_numpy(_nearest(weights[name].detach().numpy(), book)))

    def effective(parameters: Tensors) -> Tensors:
        # What was zero stays zero while the codebook learns.
        out = dict(parameters)
        for name, (number, index) in shared.items():
            out[name] = torch.where(books[number].detach() == 0, books[number].detach(), books[number])[index]
        return out

    if params.training is None:
        with torch.no_grad():
            for name, value in effective({}).items():
                weights[name].copy_(value)
    elif rows is None:
        raise UnsupportedError("cluster: training needs training rows; give data, or set `training: null`")
    else:
        fit(model, rows, params.training, effective=effective, extra=books, teacher=original)
    return model


def codebook(values: np.ndarray, clusters: int, start: str = "optimal", seed: int = 0) -> np.ndarray:
    """The (K,) float32 means, ascending, of k-means over (N,) values; fewer than K where there are fewer values."""
    ordered = np.sort(values.astype(np.float32), kind="stable")
    sums = np.concatenate([[0.0], np.cumsum(ordered, dtype=np.float64)])
    means = _start(ordered, clusters, start, seed)
    for _ in range(_ITERATIONS):
        edges = np.searchsorted(ordered, (means[1:] + means[:-1]) / 2)
        bounds = np.concatenate([[0], edges, [len(ordered)]])
        counts = np.diff(bounds)
        moved = np.where(counts > 0, np.diff(sums[bounds]) / np.maximum(counts, 1), means)
        if np.allclose(moved, means, rtol=1e-6, atol=0):
            break
        means = moved
    return np.unique(means.astype(np.float32))


def _start(ordered: np.ndarray, clusters: int, start: str, seed: int) -> np.ndarray:
    if start == "linear":
        return np.linspace(ordered[0], ordered[-1], clusters)
    if start == "density":
        return np.unique(np.quantile(ordered, (np.arange(clusters) + 0.5) / clusters))
    if start == "random":
        return np.sort(np.random.default_rng(seed).choice(ordered, min(clusters, len(ordered)), replace=False))
    distinct, counts = np.unique(ordered, return_counts=True)
    if len(distinct) > _BINS:
        parts = np.array_split(ordered, _BINS)
        distinct, counts = np.array([p.mean() for p in parts]), np.array([len(p) for p in parts])
    return _optimal(distinct.astype(np.float64), counts.astype(np.float64), min(clusters, len(distinct)))


def _optimal(values: np.ndarray, counts: np.ndarray, clusters: int) -> np.ndarray:
    """Dynamic programming over (M,) ascending values: O(K M^2) in M-vectors."""
    mass = np.concatenate([[0], np.cumsum(counts)])
    first = np.concatenate([[0], np.cumsum(counts * values)])
    second = np.concatenate([[0], np.cumsum(counts * values**2)])
    count = len(values)

    def within(start: np.ndarray, stop: int) -> np.ndarray:
        """Squared error of one cluster over values start..stop-1, for each start."""
        total = first[stop] - first[start]
        error: np.ndarray = second[stop] - second[start] - total**2 / (mass[stop] - mass[start])
        return error

    best = np.full(count + 1, np.inf)
    best[0] = 0
    splits = np.zeros((clusters, count + 1), dtype=np.int64)
    for k in range(clusters):
        following = np.full(count + 1, np.inf)
        for stop in range(k + 1, count + 1):
            starts = np.arange(k, stop)
            costs = best[starts] + within(starts, stop)
            at = int(np.argmin(costs))
            following[stop], splits[k, stop] = costs[at], starts[at]
        best = following
    edges = [count]
    for k in range(clusters - 1, -1, -1):
        edges.append(int(splits[k, edges[-1]]))
    bounds = np.array(edges[::-1])
    means: np.ndarray = np.diff(first[bounds]) / np.diff(mass[bounds])
    return means


def _with_zero(values: np.ndarray, params: Cluster) -> np.ndarray:
    held = values[values != 0]
    if len(held) == len(values):
        return codebook(values, params.clusters, params.start)
    means = codebook(held, params.clusters - 1, params.start) if len(held) else np.zeros(0, np.float32)
    return np.unique(np.concatenate([means, np.zeros(1, np.float32)]))


def _nearest(weight: np.ndarray, book: np.ndarray) -> np.ndarray:
    edges = (book[1:] + book[:-1]) / 2
    index = np.searchsorted(edges, weight)
    at = np.flatnonzero(book == 0)
    if len(at) and (weight == 0).any():
        # Zeros to zero, and nothing else may fall on it.
        lower, upper = max(int(at[0]) - 1, 0), min(int(at[0]) + 1, len(book) - 1)
        fell = (index == at[0]) & (weight != 0)
        index = np.where(fell, np.where(weight < 0, lower, upper), index)
        index = np.where(weight == 0, at[0], index)
    return np.asarray(index, dtype=np.int64)
