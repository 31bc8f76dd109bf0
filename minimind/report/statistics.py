"""Statistics of a few runs: the spread of a metric, and paired differences with simultaneous confidence intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95  # that all intervals of a report hold simultaneously
MIN_PAIRS = 3  # for an interval; with fewer it would be too wide to mean anything


@dataclass(frozen=True)
class Spread:
    """Location and spread of one metric over the runs of an arm."""

    count: int
    mean: float
    sd: float  # sample standard deviation (count - 1); 0 for one run
    median: float
    quartiles: tuple[float, float]


def spread(values: Sequence[float]) -> Spread:
    low, median, high = (float(value) for value in np.percentile(values, (25, 50, 75)))
    sd = float(np.std(values, ddof=1)) if len(set(values)) > 1 else 0.0
    return Spread(len(values), float(np.mean(values)), sd, median, (low, high))


@dataclass(frozen=True)
class Difference:
    """Arm minus baseline, over paired runs."""

    pairs: int
    mean: float
    relative: float | None  # to the baseline's mean; None if that is 0
    sd: float
    interval: tuple[float, float] | None  # None: fewer than MIN_PAIRS pairs
    confidence: float  # of this interval on its own

    @property
    def degrees_of_freedom(self) -> int:
        return self.pairs - 1


def paired_difference(arm: Sequence[float], baseline: Sequence[float], num_compared: int) -> Difference:
    """Paired t interval, Bonferroni-corrected so that `num_compared` of them hold together with `CONFIDENCE`.

    If all differences are equal, the interval has zero width.

    Source: Dunn 1961, "Multiple comparisons among means".
    """
    differences = spread(np.subtract(arm, baseline).tolist())
    base = float(np.mean(baseline))
    confidence = 1 - (1 - CONFIDENCE) / num_compared
    interval = None
    if differences.count >= MIN_PAIRS:
        quantile = float(stats.t.ppf((1 + confidence) / 2, df=differences.count - 1))
        half = quantile * differences.sd / math.sqrt(differences.count)
        interval = (differences.mean - half, differences.mean + half)
    relative = differences.mean / abs(base) if base else None
    return Difference(differences.count, differences.mean, relative, differences.sd, interval, confidence)
