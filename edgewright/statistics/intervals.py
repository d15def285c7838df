"""Intervals and tests: how sure a figure is. Seeds are fixed, so the same rows give the same verdict."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from edgewright.measurement import Interval, Verdict

__all__ = [
    "latency_ratio",
    "latency_verdict",
    "mcnemar",
    "paired_difference",
    "r2",
    "r2_drop",
    "r2_interval",
    "wilson",
]

_Z95 = 1.959963984540054  # two-sided 95% quantile of the normal distribution
_RESAMPLES = 2000
_QUARTILE = 25
_DRAWN_AT_ONCE = 2_000_000  # rows of resamples held together: bounded memory, however many rows
# Two loads of one file in one process differ by up to this much through where their memory happens to lie; a smaller
# difference is never claimed (benchmarks/validation.py measures it).
_MIN_EFFECT = 0.02

Floats = NDArray[np.float64]
Epochs = Sequence[Sequence[float]]


def wilson(right: int, rows: int) -> Interval:
    """A share of rows, 0-1, with Wilson's score interval (Wilson 1927).

    Its closed form: `scipy.stats`, which has it too, takes half a second to import.
    """
    share, z2 = right / rows, _Z95**2
    centre = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = _Z95 * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2)) / (1 + z2 / rows)
    # Rounding can put a bound of 0 or 1 on the wrong side of the share.
    return Interval(value=share, low=max(0.0, min(centre - half, share)), high=min(1.0, max(centre + half, share)))


def mcnemar(only_first: int, only_second: int) -> float:
    """Mid-p value of McNemar's exact test that two classifiers err equally often (Fagerland et al. 2013)."""
    from scipy.special import bdtr

    discordant, least = only_first + only_second, min(only_first, only_second)
    if discordant == 0:
        return 1.0
    up_to, below = float(bdtr(least, discordant, 0.5)), float(bdtr(least - 1, discordant, 0.5)) if least else 0.0
    # Both tails hold the middle outcome here, which would count twice.
    if only_first == only_second:
        return 1 - 0.5 * (up_to - below)
    return min(1.0, up_to + below)


def paired_difference(only_first: int, only_second: int, rows: int) -> Interval:
    """First's share of right rows less second's, on the same rows, with Bonett and Price's interval (2012)."""
    # One more of each kind, two more rows: Bonett and Price's adjustment, which keeps zero counts from a width of 0.
    p12, p21 = (only_first + 1) / (rows + 2), (only_second + 1) / (rows + 2)
    half = _Z95 * math.sqrt((p12 + p21 - (p12 - p21) ** 2) / (rows + 2))
    value = (only_first - only_second) / rows
    return Interval(value=value, low=min(value, p12 - p21 - half), high=max(value, p12 - p21 + half))


def r2(truth: Floats, predicted: Floats) -> float:
    """Coefficient of determination over all numbers; ``truth`` must not be constant."""
    spread = float(((truth - truth.mean()) ** 2).sum())
    residual = float(((truth - predicted) ** 2).sum())
    return 1 - residual / spread


def r2_interval(truth: Floats, predicted: Floats, seed: int = 0) -> Interval:
    """R² of numbers (N,) or (N, K) with its percentile bootstrap interval over the N rows."""
    resampled = _resampled_r2(truth, predicted[None], seed)[0]
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(value=r2(truth, predicted), low=float(low), high=float(high))


def r2_drop(truth: Floats, source: Floats, candidate: Floats, seed: int = 0) -> tuple[Interval, float]:
    """The source's R² less the candidate's, by a paired bootstrap over rows, and the p value of no difference."""
    first, second = _resampled_r2(truth, np.stack([source, candidate]), seed)
    drops = first - second
    low, high = np.percentile(drops, [2.5, 97.5])
    # Two-sided: the smaller tail doubled. That no resample lies beyond zero shows less than one in all of them.
    tail = min(float((drops <= 0).mean()), float((drops >= 0).mean()))
    value = r2(truth, source) - r2(truth, candidate)
    return Interval(value=value, low=float(low), high=float(high)), min(1.0, 2 * max(tail, 1 / _RESAMPLES))


def _resampled_r2(truth: Floats, predictions: Floats, seed: int) -> Floats:
    """R² of each of (M, N) or (M, N, K) predictions on each resample of the N rows: (M, resamples).

    Resamples of equal values are left out, since they have no R².
    """
    chance = np.random.default_rng(seed)
    truth = truth.reshape(len(truth), -1)
    errors = ((truth[None] - predictions.reshape(len(predictions), *truth.shape)) ** 2).sum(axis=2)
    parts = []
    block = max(1, min(_RESAMPLES, _DRAWN_AT_ONCE // truth.size))
    for done in range(0, _RESAMPLES, block):
        drawn = chance.integers(0, len(truth), (min(block, _RESAMPLES - done), len(truth)))
        picked = truth[drawn].reshape(len(drawn), -1)
        varies = picked.min(axis=1) < picked.max(axis=1)
        drawn, picked = drawn[varies], picked[varies]
        # Centred first: a sum of squares less the squared mean loses its digits where the mean is large.
        spread = ((picked - picked.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
        parts.append(1 - errors[:, drawn].sum(axis=2) / spread)
    return np.concatenate(parts, axis=1)


def latency_ratio(baseline_ms: Epochs, candidate_ms: Epochs, seed: int = 0) -> Interval:
    """Candidate over baseline of the lower-quartile latency, with a bootstrap interval.

    Both are lower quartiles of blocks, by epoch (one load of each model) and round; the ratio is the geometric mean
    over epochs of the epoch's ratio of lower quartiles. What disturbs a machine only ever adds time: on a busy one
    the median ratio varies twice as much. Epochs are drawn first, then rounds within them: runs of one block share what
    disturbed it, runs of one epoch share where the models lie in memory. Rounds are drawn as a whole, so what
    disturbed one round disturbs both models alike.
    """
    chance = np.random.default_rng(seed)
    resampled = np.stack([_resampled_log_ratio(b, c, chance) for b, c in zip(baseline_ms, candidate_ms, strict=True)])
    epochs = len(resampled)
    drawn = chance.integers(0, epochs, (_RESAMPLES, epochs))
    logs = resampled[drawn, np.arange(_RESAMPLES)[:, None]].mean(axis=1)
    point = float(
        np.mean(
            [
                math.log(np.percentile(c, _QUARTILE) / np.percentile(b, _QUARTILE))
                for b, c in zip(baseline_ms, candidate_ms, strict=True)
            ]
        )
    )
    widen = _small_sample_factor(epochs)
    # Widened about the point, and in logarithms: a ratio and its inverse get the same interval.
    low, high = (point + widen * (float(q) - point) for q in np.percentile(logs, [2.5, 97.5]))
    return Interval(value=math.exp(point), low=math.exp(min(point, low)), high=math.exp(max(point, high)))


def _small_sample_factor(groups: int) -> float:
    """How much too narrow a percentile bootstrap over few groups is.

    sqrt((n - 1) / n) for the variance, and the normal quantile where Student's is due (Hesterberg 2015, section 3.2).
    """
    from scipy.special import stdtrit

    if groups < 2:
        return 1.0
    freedom = groups - 1
    return float(stdtrit(freedom, 0.975)) / _Z95 * math.sqrt(groups / freedom)


def _resampled_log_ratio(baseline_ms: Sequence[float], candidate_ms: Sequence[float], chance: Generator) -> Floats:
    drawn = chance.integers(0, len(baseline_ms), (_RESAMPLES, len(baseline_ms)))
    first, second = np.asarray(baseline_ms)[drawn], np.asarray(candidate_ms)[drawn]
    logs: Floats = np.log(np.percentile(second, _QUARTILE, axis=1) / np.percentile(first, _QUARTILE, axis=1))
    return logs


def latency_verdict(ratio: Interval, noise: Interval) -> Verdict:
    """Faster or slower only where the whole interval lies beyond the difference that the A/A run showed.

    The A/A run's own interval is not added: candidate and noise were measured alike, so the candidate's interval
    already holds the machine's unrest, and adding it twice halves the chance to find a slowdown of a tenth.
    """
    floor = max(_MIN_EFFECT, abs(noise.value - 1))
    if ratio.high < 1 - floor:
        return "faster"
    if ratio.low > 1 + floor:
        return "slower"
    return "no difference that this machine can show"
