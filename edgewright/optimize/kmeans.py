"""K-means in one dimension, exactly.

Clusters of an optimal solution are runs of the sorted values, so what is sought are K - 1 boundaries. Dynamic
programming over all N places (Wang and Song, Ckmeans.1d.dp, 2011; Gronlund et al., arXiv 1701.07204) is exact and too
slow for millions of values. Here it is branch and bound. Each boundary may lie in one of some bins. A bin's values,
moved to the bin's edge that is nearer to the cluster they go to, all to the left or all to the right, cost no more than
any way to divide them, as the cost is concave in how many go left; so dynamic programming over the bins bounds from
below what a solution with a boundary in a bin costs. Bins that cost more than a solution already known are dropped, the
others halved, until what is known costs no more than the bound of all others, to 1e-9 of it. The bound's error falls
with the square of a bin's width, so some ten bins a boundary remain at every step.

Written by hand: scikit-learn's k-means is Lloyd's, which ends in a local optimum; kmeans1d and ckwrap are exact, and
their dynamic programming holds K rows of N numbers.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewright.errors import UnsupportedError

__all__ = ["EXACT_CLUSTERS", "codebook", "optimal_means"]

Array = NDArray[Any]
EXACT_CLUSTERS = 64
"""Above that many the search would take minutes: Lloyd's iterations then start from clusters of equal distortion, as
the best quantizer of many levels has them (Panter and Dite, 1951)."""
_BINS_PER_CLUSTER = 8
_ITERATIONS = 300
_ROUNDING = 1e-9  # of the total: cumulated sums of squares are that exact


def codebook(values: Array, clusters: int, start: str = "optimal", seed: int = 0) -> NDArray[np.float32]:
    """The (K,) float32 means, ascending, of k-means over (N,) values; fewer than K where there are fewer values.

    ``optimal``: the least squared error there is, up to `EXACT_CLUSTERS` clusters. Else Lloyd's iterations, each of
    which costs K searches in the sorted values, from ``linear``, ``density`` or ``random`` means (Han et al., arXiv
    1510.00149, section 3.2).

    Raises:
        UnsupportedError: a value is NaN or infinite.
    """
    # A mean with an infinity is NaN, and the search below would not come to an end.
    if broken := int(np.size(values) - np.isfinite(values).sum()):
        raise UnsupportedError(f"a codebook needs finite weights: {broken} of {np.size(values)} are NaN or infinite")
    sums = _Sums.of(values)
    if start == "optimal":
        means = optimal_means(sums, clusters) if clusters <= EXACT_CLUSTERS else _equally_distorted(sums, clusters)
        return np.unique(means.astype(np.float32))
    return np.unique(_lloyd(sums, _start(sums.ordered, clusters, start, seed)).astype(np.float32))


@dataclass(frozen=True)
class _Sums:
    """Sorted values, and the sums of the first p of them and of their squares, p = 0..N."""

    ordered: Array
    first: Array
    second: Array

    @classmethod
    def of(cls, values: Array) -> "_Sums":
        ordered = np.sort(values.astype(np.float32, copy=False), axis=None)
        # In float64: a cluster's sums are differences of these, and float32 would leave them few digits.
        first, second = np.zeros(len(ordered) + 1), np.zeros(len(ordered) + 1)
        np.cumsum(ordered, dtype=np.float64, out=first[1:])
        np.square(ordered, dtype=np.float64, out=second[1:])
        np.cumsum(second[1:], out=second[1:])
        return cls(ordered, first, second)

    def means(self, bounds: Array) -> Array:
        """Of the clusters between the (K + 1,) bounds; empty ones are left out."""
        counts = np.diff(bounds)
        means: Array = np.diff(self.first[bounds])[counts > 0] / counts[counts > 0]
        return means

    def bounds(self, means: Array) -> Array:
        """The (K + 1,) bounds of the values that are nearest to each of the (K,) means."""
        # In the values' own dtype: numpy would else convert all of them for each search.
        edges = np.searchsorted(self.ordered, ((means[1:] + means[:-1]) / 2).astype(np.float32))
        return np.concatenate([[0], edges, [len(self.ordered)]])

    def cost(self, bounds: Array) -> float:
        """Squared error of the clusters between the (K + 1,) bounds."""
        counts = np.diff(bounds)
        # Squares less the mean's share. Rounding can take that below zero.
        spread = np.diff(self.second[bounds]) - np.diff(self.first[bounds]) ** 2 / np.maximum(counts, 1)
        return float(np.maximum(spread, 0).sum())


@dataclass(frozen=True)
class _Places:
    """Where a boundary may lie: its position, and what moving the bin's values to an edge adds to the sums of the
    cluster on its left (those values went there) or on its right. ``bin`` is where the bin begins."""

    position: Array
    bin: Array
    left: tuple[Array, Array]
    right: tuple[Array, Array]

    @classmethod
    def of(cls, sums: _Sums, low: Array, high: Array) -> "_Places":
        """All of a bin's values, those at ``low`` to ``high`` - 1, go right, or all go left."""
        at_low, at_high = sums.ordered[low].astype(np.float64), sums.ordered[high - 1].astype(np.float64)
        count, none = high - low, np.zeros(len(low))
        held = [s[high] - s[low] for s in (sums.first, sums.second)]
        left = [count * at_low**power - total for power, total in zip((1, 2), held, strict=True)]
        right = [count * at_high**power - total for power, total in zip((1, 2), held, strict=True)]
        return cls(
            position=np.concatenate([low, high]),
            bin=np.concatenate([low, low]),
            left=(np.concatenate([none, left[0]]), np.concatenate([none, left[1]])),
            right=(np.concatenate([right[0], none]), np.concatenate([right[1], none])),
        )


def optimal_means(sums: _Sums, clusters: int) -> Array:
    """The means of the exact solution, by branch and bound over the places of each boundary."""
    count = len(sums.ordered)
    if clusters >= count or clusters < 2:
        edges = np.arange(count + 1) if clusters >= count else np.array([0, count])
        return sums.means(edges)
    bins = [_first_bins(sums, _BINS_PER_CLUSTER * clusters)] * (clusters - 1)
    # A first solution to beat: clusters of equal count, moved by Lloyd's iterations.
    known = np.array([0, *np.linspace(0, count, clusters + 1).astype(np.int64)[1:-1], count])
    known = _polished(sums, known)
    # At first all boundaries have the same places: one object, so that what is between them is computed once.
    places = [_Places.of(sums, *bins[0])] * (clusters - 1)
    while True:
        totals, path = _bounds(sums, places)
        known = min((known, _polished(sums, path), path), key=sums.cost)
        # A cost is a difference of cumulated squares, so its rounding is a share of those, too.
        cost, rounding = sums.cost(known), _ROUNDING * (sums.cost(known) + 1e-2 * sums.second[-1])
        if totals[0].min() >= cost - rounding or _single_valued(sums, bins):
            return sums.means(known)
        limit = cost + rounding
        # A bin has two places, its beginning and its end: it stays while either may be in a better solution.
        bins = [
            _halved(sums, low[mask], high[mask])
            for (low, high), total in zip(bins, totals, strict=True)
            for mask in [np.minimum(total[: len(low)], total[len(low) :]) <= limit]
        ]
        places = [_Places.of(sums, low, high) for low, high in bins]


def _single_valued(sums: _Sums, bins: list[tuple[Array, Array]]) -> bool:
    return all((sums.ordered[low] == sums.ordered[high - 1]).all() for low, high in bins)


def _equally_distorted(sums: _Sums, clusters: int) -> Array:
    low, high = _first_bins(sums, clusters)
    return _lloyd(sums, sums.means(np.append(low, high[-1])))


def _first_bins(sums: _Sums, most: int) -> tuple[Array, Array]:
    """At most ``most`` bins of about the same distortion, count times squared width, as good quantizers have them."""
    low, high = np.array([0]), np.array([len(sums.ordered)])
    while True:
        width = sums.ordered[high - 1].astype(np.float64) - sums.ordered[low]
        # At most half as many new bins as there are: each round halves the worst of what the last one left.
        room = min(most - len(low), max(len(low) // 2, 1), int((width > 0).sum()))
        if room <= 0:
            return low, high
        chosen = np.zeros(len(low), dtype=bool)
        chosen[np.argsort((high - low) * width**2)[-room:]] = True
        halves = _halved(sums, low[chosen], high[chosen])
        low, high = (np.sort(np.concatenate([old[~chosen], new])) for old, new in zip((low, high), halves, strict=True))


def _halved(sums: _Sums, low: Array, high: Array) -> tuple[Array, Array]:
    """Each bin in two, in the middle of its values; one that holds a single value is left whole."""
    least, largest = sums.ordered[low].astype(np.float64), sums.ordered[high - 1].astype(np.float64)
    middle = np.searchsorted(sums.ordered, ((least + largest) / 2).astype(np.float32))
    # In float32 the middle of two neighbours is one of them.
    middle = np.clip(middle, low + 1, high)
    wide = (least < largest) & (middle < high)
    lower = np.concatenate([low, middle[wide]])
    upper = np.concatenate([np.where(wide, middle, high), high[wide]])
    return np.sort(lower), np.sort(upper)


def _bounds(sums: _Sums, places: list[_Places]) -> tuple[list[Array], Array]:
    """For each boundary the least that a solution through each of its places can cost; and the cheapest path."""
    count = len(sums.ordered)
    none = (np.zeros(1), np.zeros(1))
    start = _Places(np.array([0]), np.array([-1]), none, none)
    stop = _Places(np.array([count]), np.array([-2]), none, none)
    chain = [start, *places, stop]
    known: dict[tuple[int, int], Array] = {}
    for one, other in pairwise(chain):
        if (id(one), id(other)) not in known:
            known[id(one), id(other)] = _between(sums, one, other)
    steps = [known[id(one), id(other)] for one, other in pairwise(chain)]
    # The least cost from the start to each place, and from each place to the end: summed, the least through it.
    forward = [np.zeros(1)]
    for step in steps:
        forward.append((forward[-1][:, None] + step).min(0))
    backward = [np.zeros(1)]
    for step in reversed(steps):
        backward.append((backward[-1][None] + step).min(1))
    backward.reverse()
    path, at = [count], 0
    for i in range(len(steps) - 1, 0, -1):
        at = int(np.argmin(forward[i] + steps[i][:, at]))
        path.append(int(chain[i].position[at]))
    # Two boundaries in one bin cost nothing in either order (`_between`): here they are put in order.
    bounds = np.maximum.accumulate(np.array([0, *path[:0:-1], count]))
    return [f + b for f, b in zip(forward[1:-1], backward[1:-1], strict=True)], bounds


def _between(sums: _Sums, one: _Places, other: _Places) -> Array:
    """(P, Q) squared error of the cluster from each place of one boundary to each of the next."""
    position, following = one.position[:, None], other.position[None]
    mass = following - position
    first = (sums.first[other.position] + other.left[0])[None] - (sums.first[one.position] - one.right[0])[:, None]
    second = (sums.second[other.position] + other.left[1])[None] - (sums.second[one.position] - one.right[1])[:, None]
    cost: Array = np.maximum(second - first**2 / np.maximum(mass, 1), 0)
    cost[mass == 0] = 0
    cost[mass < 0] = np.inf
    # Both boundaries in one bin: the cluster between may hold next to nothing of it.
    cost[one.bin[:, None] == other.bin[None]] = 0
    return cost


def _polished(sums: _Sums, bounds: Array) -> Array:
    """Lloyd's iterations from a partition."""
    means = _lloyd(sums, sums.means(bounds))
    return sums.bounds(means)


def _lloyd(sums: _Sums, means: Array) -> Array:
    for _ in range(_ITERATIONS):
        bounds = sums.bounds(means)
        counts = np.diff(bounds)
        # An empty cluster keeps its mean: 0 / 0 would spread NaN to its neighbours.
        moved = np.where(counts > 0, np.diff(sums.first[bounds]) / np.maximum(counts, 1), means)
        if np.allclose(moved, means, rtol=1e-6, atol=0):
            break
        means = moved
    return means


def _start(ordered: Array, clusters: int, start: str, seed: int) -> Array:
    if start == "linear":
        return np.linspace(ordered[0], ordered[-1], clusters)
    if start == "random":
        return np.sort(np.random.default_rng(seed).choice(ordered, min(clusters, len(ordered)), replace=False))
    return np.unique(np.quantile(ordered, (np.arange(clusters) + 0.5) / clusters))
