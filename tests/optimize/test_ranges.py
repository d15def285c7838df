"""Ranges of activations: what each method clips, and that rows are streamed."""

from collections.abc import Iterator

import numpy as np
import pytest

from edgewright.optimize.ranges import Histogram, range_of, streamed_ranges


def histogram(values: np.ndarray) -> Histogram:
    made = Histogram(min(0.0, float(values.min())), max(0.0, float(values.max())))
    made.add(values)
    return made


def rounded(values: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    step = (bounds[1] - bounds[0]) / 255
    return np.round((values.clip(*bounds) - bounds[0]) / step) * step + bounds[0]


@pytest.fixture(scope="module")
def heavy() -> np.ndarray:
    """Bell-shaped with a few far outliers, as activations are."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(0, 1, 50_000), [40.0, -35.0]])


def test_min_max_keeps_everything(heavy):
    assert range_of(histogram(heavy), "min_max") == (heavy.min(), heavy.max())


def test_percentile_leaves_that_share_inside(heavy):
    low, high = range_of(histogram(heavy), "percentile", 99.0)
    inside = ((heavy >= low) & (heavy <= high)).mean()
    assert inside == pytest.approx(0.99, abs=0.01)
    assert (low, high) == (pytest.approx(-2.58, abs=0.15), pytest.approx(2.58, abs=0.15))


def test_mse_is_as_good_as_the_best_symmetric_clip(heavy):
    def error(bounds: tuple[float, float]) -> float:
        return float(((heavy - rounded(heavy, bounds)) ** 2).sum())

    best = min(error((max(-t, heavy.min()), min(t, heavy.max()))) for t in np.linspace(2, 40, 400))
    found = error(range_of(histogram(heavy), "mse"))
    assert found <= 1.02 * best


def test_entropy_clips_outliers_and_keeps_the_bulk(heavy):
    low, high = range_of(histogram(heavy), "entropy")
    assert 2 < high < 20
    assert -20 < low < -2


def test_a_uniform_distribution_is_clipped_by_no_method():
    values = np.random.default_rng(0).uniform(0, 6, 100_000)
    for method in ("entropy", "mse"):
        assert range_of(histogram(values), method)[1] == pytest.approx(6, abs=0.1)


def test_values_of_one_sign_are_clipped_on_that_side_and_zero_stays_inside():
    values = np.concatenate([np.random.default_rng(0).exponential(1, 20_000), [90.0]])
    for method in ("percentile", "entropy"):  # one value in 20,000 that far out costs less squared error kept
        low, high = range_of(histogram(values), method, 99.9)
        assert low == 0
        assert 3 < high < 40


def test_rows_are_gone_through_one_at_a_time_and_infinities_left_out():
    rng = np.random.default_rng(0)
    data = rng.normal(0, 1, (50, 200)).astype(np.float32)
    data[3, 0] = -np.inf
    alive: list[int] = []

    def rows() -> Iterator[dict[str, np.ndarray]]:
        for row in data:
            alive.append(1)
            yield {"x": row[None], "empty": np.array([np.nan])}

    assert streamed_ranges(rows, "min_max", 99.99) == {"x": (data[np.isfinite(data)].min(), data.max())}
    assert len(alive) == len(data)
    assert streamed_ranges(rows, "mse", 99.99)["x"][1] <= data.max()
    assert len(alive) == 3 * len(data)


def test_a_tensor_that_is_always_zero_has_no_width():
    assert streamed_ranges(lambda: [{"x": np.zeros(8)}], "entropy", 99.99) == {"x": (0.0, 0.0)}


@pytest.mark.parametrize("method", ["min_max", "percentile", "entropy", "mse"])
@pytest.mark.parametrize("ends", [(-3.4e38, 3.4e38), (0.0, 1e-45), (-1e-45, 1e-45), (-1e-40, 3.4e38)])
def test_a_range_at_the_ends_of_float32_has_bins(method, ends):
    """A mask's -3.4e38, whose width float32 has not, and the least number that it has."""
    values = np.array([*ends, 0.0], np.float32)
    found = streamed_ranges(lambda: [{"x": values}], method, 99.99)["x"]
    assert values.min() <= found[0] <= 0 <= found[1] <= values.max()
    assert np.ptp(found) > 0


def test_scaling_moves_no_value_to_another_bin():
    values = np.random.default_rng(0).normal(0, 3, 10_000).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    expected = np.histogram(values.astype(np.float64), 2048, (low, high))[0]
    assert np.abs(histogram(values).counts - expected).sum() <= 4
