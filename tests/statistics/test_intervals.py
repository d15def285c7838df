"""Intervals and tests against published values and against what they promise: coverage."""

import math

import numpy as np
import pytest

from edgewright.measurement import Interval
from edgewright.statistics import intervals


def test_wilson_reproduces_published_intervals() -> None:
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
    for right, rows, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)]:
        interval = intervals.wilson(right, rows)
        assert interval.low == pytest.approx(low, abs=5e-5)
        assert interval.high == pytest.approx(high, abs=5e-5)


def test_mcnemar_mid_p_reproduces_a_published_value() -> None:
    # Fagerland, Lydersen, Laake 2013, BMC Medical Research Methodology 13:91: 1 against 7.
    assert intervals.mcnemar(1, 7) == pytest.approx(0.0391, abs=5e-5)


def test_mcnemar_is_exact_where_tens_of_thousands_of_rows_disagree() -> None:
    # The sum of math.comb(39000, k) up to 19000, which takes minutes.
    assert intervals.mcnemar(19_000, 20_000) == pytest.approx(4.1076824e-07, rel=1e-6)
    assert intervals.mcnemar(0, 60_000) == 0.0


def test_r2_interval_needs_no_more_memory_for_more_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = np.random.default_rng(3)
    truth = chance.normal(size=300)
    predicted = truth + chance.normal(size=300) * 0.5
    at_once = intervals.r2_interval(truth, predicted)
    monkeypatch.setattr(intervals, "_DRAWN_AT_ONCE", 100)  # fewer than one resample has rows
    apart = intervals.r2_interval(truth, predicted)
    assert apart.value == at_once.value
    assert apart.low == pytest.approx(at_once.low, abs=0.01)
    assert apart.high == pytest.approx(at_once.high, abs=0.01)


def test_few_loads_are_widened_by_students_quantile() -> None:
    # Two-sided 95% quantiles of Student's t in any table: 12.706 for 1 degree of freedom, 2.262 for 9.
    for loads, quantile in ((2, 12.706), (10, 2.262)):
        widened = quantile / 1.960 * math.sqrt(loads / (loads - 1))
        assert intervals._small_sample_factor(loads) == pytest.approx(widened, rel=1e-3)
    assert intervals._small_sample_factor(1) == 1.0


def test_mcnemar_of_no_or_equal_disagreement_finds_nothing() -> None:
    assert intervals.mcnemar(0, 0) == 1.0
    assert intervals.mcnemar(5, 5) > 0.85


def test_paired_difference_covers_the_true_one() -> None:
    chance = np.random.default_rng(0)
    rows, p12, p21, covered, repeats = 200, 0.06, 0.02, 0, 400
    for _ in range(repeats):
        first, second, _ = chance.multinomial(rows, [p12, p21, 1 - p12 - p21])
        interval = intervals.paired_difference(int(first), int(second), rows)
        covered += interval.low <= p12 - p21 <= interval.high
    assert covered / repeats > 0.92


def test_r2_matches_its_definition() -> None:
    truth = np.array([1.0, 2.0, 3.0, 4.0])
    assert intervals.r2(truth, truth) == 1.0
    assert intervals.r2(truth, np.full(4, truth.mean())) == 0.0
    assert intervals.r2(truth, truth[::-1].copy()) == pytest.approx(-3.0)


def test_r2_of_few_rows_leaves_out_resamples_of_equal_values() -> None:
    truth = np.array([-1.0, 1.0, 1.0, 1.0])  # a third of all resamples hold one value alone
    source, candidate = truth * 0.9, truth * 0.8
    found = intervals.r2_interval(truth, source)
    assert -1 < found.low <= found.value <= found.high
    drop, p_value = intervals.r2_drop(truth, source, candidate)
    assert 0 < drop.low <= drop.high < 1
    assert p_value < 0.05
    far = intervals.r2_drop(truth, -9 * truth, -8 * truth)[0]
    assert np.isfinite([far.low, far.high]).all()


def test_r2_drop_tells_a_planted_loss_from_none() -> None:
    chance = np.random.default_rng(3)
    truth = chance.normal(size=400)
    source = truth + chance.normal(size=400) * 0.3
    same = source + chance.normal(size=400) * 1e-4
    worse = source + chance.normal(size=400) * 0.3
    drop, p_value = intervals.r2_drop(truth, source, worse)
    assert drop.low > 0
    assert p_value < 0.05
    drop, p_value = intervals.r2_drop(truth, source, same)
    assert drop.low <= 0 <= drop.high
    assert p_value > 0.05


def _epochs(chance: np.random.Generator, centre: float, placement: float) -> list[list[float]]:
    """Eight loads; each lies somewhere else in memory (``placement``) and each of its rounds is noisy."""
    return [
        [centre * math.exp(shift + chance.normal() * 0.01) for _ in range(12)]
        for shift in chance.normal(size=8) * placement
    ]


def test_latency_ratio_covers_the_true_one_whatever_the_placement() -> None:
    chance, covered, repeats = np.random.default_rng(5), 0, 300
    for _ in range(repeats):
        interval = intervals.latency_ratio(_epochs(chance, 1.0, 0.03), _epochs(chance, 1.1, 0.03))
        covered += interval.low <= 1.1 <= interval.high
    assert covered / repeats > 0.91


def test_equal_models_are_rarely_told_apart_and_a_planted_tenth_is_found() -> None:
    chance, false_alarms, found, repeats = np.random.default_rng(7), 0, 0, 150
    for _ in range(repeats):
        baseline, again = _epochs(chance, 1.0, 0.01), _epochs(chance, 1.0, 0.01)
        noise = intervals.latency_ratio(baseline, again)
        equal = intervals.latency_ratio(baseline, _epochs(chance, 1.0, 0.01))
        slower = intervals.latency_ratio(baseline, _epochs(chance, 1.1, 0.01))
        false_alarms += intervals.latency_verdict(equal, noise) != "no difference that this machine can show"
        found += intervals.latency_verdict(slower, noise) == "slower"
    assert false_alarms / repeats <= 0.05
    assert found / repeats >= 0.9


@pytest.mark.parametrize(
    ("ratio", "noise", "expected"),
    [
        ((0.5, 0.45, 0.55), (1.0, 0.99, 1.01), "faster"),
        ((1.5, 1.4, 1.6), (1.0, 0.99, 1.01), "slower"),
        ((0.9, 0.88, 0.92), (0.87, 0.85, 0.89), "no difference that this machine can show"),
        ((0.99, 0.985, 0.995), (1.0, 0.999, 1.001), "no difference that this machine can show"),
    ],
)
def test_verdict_needs_more_than_the_noise(
    ratio: tuple[float, float, float], noise: tuple[float, float, float], expected: str
) -> None:
    keys = ("value", "low", "high")
    made = [Interval(**dict(zip(keys, each, strict=True))) for each in (ratio, noise)]
    assert intervals.latency_verdict(*made) == expected
