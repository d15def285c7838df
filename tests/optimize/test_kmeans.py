"""K-means in one dimension: exact, against dynamic programming over every place."""

import numpy as np
import pytest

from edgewright.errors import UnsupportedError
from edgewright.optimize.kmeans import codebook


def least_error(values: np.ndarray, clusters: int) -> float:
    """The optimum by trying every place of every boundary: O(K N^2)."""
    ordered = np.sort(values.astype(np.float64))
    first, second = (np.concatenate([[0], np.cumsum(ordered**power)]) for power in (1, 2))
    stop, start = np.arange(len(ordered) + 1)[:, None], np.arange(len(ordered) + 1)[None]
    count = np.maximum(stop - start, 1)
    cost = second[stop] - second[start] - (first[stop] - first[start]) ** 2 / count
    cost = np.where(stop >= start, np.maximum(cost, 0), np.inf)
    best = cost[:, 0]
    for _ in range(clusters - 1):
        best = (best[None] + cost).min(1)
    return float(best[-1])


def error(values: np.ndarray, means: np.ndarray) -> float:
    return float((np.abs(values.astype(np.float64)[:, None] - means[None]).min(1) ** 2).sum())


def draws(kind: str, rng: np.random.Generator, count: int) -> np.ndarray:
    if kind == "bell":
        return rng.normal(0, 1, count)
    if kind == "heavy":
        return rng.standard_t(1.5, count)
    if kind == "two hills":
        return np.concatenate([rng.normal(-4, 0.1, count // 2), rng.normal(1, 2, count - count // 2)])
    if kind == "even":
        return np.linspace(-1, 1, count)
    return rng.integers(-6, 7, count) / 7.0  # few distinct values, most of them many times


@pytest.mark.parametrize("kind", ["bell", "heavy", "two hills", "even", "repeated"])
@pytest.mark.parametrize("clusters", [2, 3, 5, 8, 16, 40, 64])
def test_the_codebook_is_the_best_there_is(kind, clusters):
    for seed, count in enumerate((45, 130, 400, 900)):
        values = draws(kind, np.random.default_rng(seed), count).astype(np.float32)
        found = codebook(values, clusters)
        assert len(found) <= clusters
        best = least_error(values, clusters)
        assert error(values, found) <= best * (1 + 1e-4) + 1e-9 * count


def test_lloyd_alone_is_caught_in_worse_minima():
    values = draws("heavy", np.random.default_rng(2), 900).astype(np.float32)
    best = error(values, codebook(values, 8))
    assert any(error(values, codebook(values, 8, start)) > 1.05 * best for start in ("density", "random", "linear"))


def test_many_clusters_are_as_good_as_theory_says():
    values = np.random.default_rng(0).normal(0, 1, 200_000).astype(np.float32)
    mean_error = np.mean((values - codebook(values, 256)[_nearest(values, 256)]) ** 2)
    # Panter and Dite: sqrt(3) pi / 2 / K^2 for a normal distribution.
    assert mean_error == pytest.approx(3**0.5 * np.pi / 2 / 256**2, rel=0.05)


def _nearest(values: np.ndarray, clusters: int) -> np.ndarray:
    book = codebook(values, clusters)
    return np.searchsorted((book[1:] + book[:-1]) / 2, values)


def test_fewer_values_than_clusters_are_kept_as_they_are():
    assert codebook(np.array([3.0, 1.0, 1.0]), 8).tolist() == [1.0, 3.0]
    assert codebook(np.array([2.0, 4.0]), 1).tolist() == [3.0]


@pytest.mark.parametrize("start", ["linear", "density", "random"])
def test_each_start_ends_where_no_mean_moves(start):
    values = np.random.default_rng(1).normal(size=500)
    means = codebook(values, 6, start)
    nearest = np.abs(values[:, None] - means[None]).argmin(1)
    assert np.allclose([values[nearest == i].mean() for i in range(len(means))], means, atol=1e-3)


@pytest.mark.parametrize("start", ["optimal", "linear", "density", "random"])
@pytest.mark.parametrize("broken", [np.inf, -np.inf, np.nan])
def test_a_value_that_is_not_finite_has_no_codebook(start, broken):
    values = np.array([1.0, 2.0, broken, 3.0, 7.0], np.float32)
    with pytest.raises(UnsupportedError, match="1 of 5 are NaN or infinite"):
        codebook(values, 3, start)
