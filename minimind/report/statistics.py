"""What a few runs can say: the spread of a metric, and paired differences with intervals that hold all at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95  # of all intervals of a report together
FEWEST_PAIRS = 3  # below, an interval would say nothing


@dataclass(frozen=True)
class Spread:
    """Of one metric over the runs of an arm."""

    count: int
    mean: float
    sd: float  # with count - 1; 0 for one run
    median: float
    quartiles: tuple[float, float]


def spread(values: Sequence[float]) -> Spread:
    low, median, high = (float(value) for value in np.percentile(values, (25, 50, 75)))
    sd = float(np.std(values, ddof=1)) if len(set(values)) > 1 else 0.0
    return Spread(len(values), float(np.mean(values)), sd, median, (low, high))


@dataclass(frozen=True)
class Difference:
    """Arm minus baseline, over pairs of runs."""

    pairs: int
    mean: float
    relative: float | None  # to the baseline's mean; None where that is 0
    sd: float
    interval: tuple[float, float] | None  # None: fewer than `FEWEST_PAIRS`
    confidence: float  # of this interval alone

    @property
    def degrees_of_freedom(self) -> int:
        return self.pairs - 1


def paired_difference(arm: Sequence[float], baseline: Sequence[float], num_compared: int) -> Difference:
    """The paired t interval, one of `num_compared` that hold together with probability `CONFIDENCE` (Bonferroni).

    Differences that are all the same have an interval of no width.

    Source: Dunn 1961, "Multiple comparisons among means".
    """
    of_pairs = spread(np.subtract(arm, baseline).tolist())
    base = float(np.mean(baseline))
    confidence = 1 - (1 - CONFIDENCE) / num_compared
    interval = None
    if of_pairs.count >= FEWEST_PAIRS:
        quantile = float(stats.t.ppf((1 + confidence) / 2, df=of_pairs.count - 1))
        half = quantile * of_pairs.sd / math.sqrt(of_pairs.count)
        interval = (of_pairs.mean - half, of_pairs.mean + half)
    relative = of_pairs.mean / abs(base) if base else None
    return Difference(of_pairs.count, of_pairs.mean, relative, of_pairs.sd, interval, confidence)
