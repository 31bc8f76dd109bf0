"""Verdicts: a confidence interval put into words."""

from dataclasses import dataclass
from enum import Enum

from minimind.report.metrics import Better, Metric, plural
from minimind.report.statistics import MIN_PAIRS, Difference


class Finding(Enum):
    better = "better"
    worse = "worse"
    higher = "higher"  # for metrics without a better direction
    lower = "lower"
    equal = "equal"  # the whole interval lies within the margin
    not_shown = "no difference shown"
    undecided = "no verdict"


@dataclass(frozen=True)
class Verdict:
    finding: Finding
    words: str


def judge(difference: Difference, metric: Metric, margin: float | None, unit: str) -> Verdict:
    """The verdict that holds for every value in the interval. `margin`: the smallest difference that matters.

    If the whole interval lies within ±margin, the arm is equal to the baseline, even if the interval excludes 0: the
    difference is then real but too small to matter, and the verdict states both.
    """
    if difference.interval is None:
        few = f"{plural(difference.pairs, unit)} in common with the baseline, at least {MIN_PAIRS} needed"
        return Verdict(Finding.undecided, f"no verdict ({metric.show_signed(difference.mean)}; {few})")
    low, high = difference.interval
    if low == high == 0:
        return Verdict(Finding.equal, f"identical for every {unit}")
    signed = f"{metric.show_signed(difference.mean)} [{metric.show_signed(low)}, {metric.show_signed(high)}]"
    excludes_zero = low > 0 or high < 0
    finding = _direction(difference.mean, metric) if excludes_zero else Finding.not_shown
    nearest, farthest = sorted((abs(low), abs(high)))
    by = f"{finding.value} by {metric.show(abs(difference.mean))} [{metric.show(nearest)}, {metric.show(farthest)}]"
    if margin and farthest <= margin:
        return Verdict(Finding.equal, f"equal within ±{margin:.3g} ({by if excludes_zero else signed})")
    if not excludes_zero:
        return Verdict(finding, f"no difference shown ({signed})")
    if margin and nearest < margin:
        by += f", perhaps by less than {margin:.3g}"
    return Verdict(finding, by)


def _direction(mean: float, metric: Metric) -> Finding:
    if metric.better is None:
        return Finding.higher if mean > 0 else Finding.lower
    return Finding.better if (mean > 0) == (metric.better is Better.higher) else Finding.worse
