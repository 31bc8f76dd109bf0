"""Intervals equal scipy's and have the nominal coverage, and verdicts have the nominal error rate."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from minimind.report.metrics import metric_of
from minimind.report.statistics import CONFIDENCE, paired_difference, spread
from minimind.report.verdict import Finding, judge

VALUES = st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=3, max_size=8)
SWEEPS = 1000


@pytest.mark.parametrize(("runs", "num_compared"), [(3, 1), (3, 4), (5, 15), (12, 2)])
def test_the_interval_is_scipys_at_the_bonferroni_level(runs: int, num_compared: int) -> None:
    arm, baseline = np.random.default_rng(runs).normal(2.0, 0.1, (2, runs))
    found = paired_difference(arm, baseline, num_compared)
    reference = stats.ttest_rel(arm, baseline).confidence_interval(1 - 0.05 / num_compared)
    assert found.interval == pytest.approx((reference.low, reference.high), rel=1e-12)
    assert found.degrees_of_freedom == runs - 1
    assert found.relative == pytest.approx(np.mean(arm) / np.mean(baseline) - 1)


def simulated(random: np.random.Generator, effects: list[float], runs: int) -> list[tuple[float, float]]:
    """The intervals of one simulated sweep, with noise shared by all arms of a seed and some noise per run."""
    seed_noise = random.normal(2.0, 0.2, runs)
    baseline = seed_noise + random.normal(0, 0.02, runs)
    arms = [seed_noise + effect + random.normal(0, 0.02, runs) for effect in effects]
    intervals = [paired_difference(arm, baseline, len(effects)).interval for arm in arms]
    return [interval for interval in intervals if interval is not None]


@pytest.mark.parametrize(("num_arms", "runs"), [(1, 3), (4, 3), (4, 6)])
def test_simultaneous_coverage_is_nominal(num_arms: int, runs: int) -> None:
    random = np.random.default_rng(num_arms * 10 + runs)
    effects = [0.01 * number for number in range(num_arms)]
    covered = sum(
        all(
            low <= effect <= high for effect, (low, high) in zip(effects, simulated(random, effects, runs), strict=True)
        )
        for _ in range(SWEEPS)
    )
    error = math.sqrt(CONFIDENCE * (1 - CONFIDENCE) / SWEEPS)
    assert covered / SWEEPS > CONFIDENCE - 3 * error
    if num_arms == 1:  # several arms share a baseline, for which Bonferroni is conservative
        assert covered / SWEEPS < CONFIDENCE + 3 * error


@pytest.mark.parametrize(("effect", "wrong"), [(0.0, {Finding.better, Finding.worse}), (0.02, {Finding.equal})])
def test_verdicts_are_wrong_in_at_most_one_of_twenty_sweeps(effect: float, wrong: set[Finding]) -> None:
    random = np.random.default_rng(7)
    margin, runs = 0.02, 8  # an effect as large as the margin is not equal
    findings = []
    for _ in range(SWEEPS):
        baseline = random.normal(2.0, 0.2, runs)
        difference = paired_difference(baseline + effect + random.normal(0, 0.01, runs), baseline, 1)
        findings.append(judge(difference, metric_of("val/loss"), margin, "seed").finding)
    assert sum(finding in wrong for finding in findings) / SWEEPS < 0.05 + 3 * math.sqrt(0.05 * 0.95 / SWEEPS)
    assert Finding.equal in findings or effect > 0


@given(VALUES)
def test_swapping_the_arms_mirrors_the_interval(pairs: list[tuple[float, float]]) -> None:
    first, second = zip(*pairs, strict=True)
    forward, backward = paired_difference(first, second, 3), paired_difference(second, first, 3)
    assert forward.mean == -backward.mean
    assert forward.interval == pytest.approx((-backward.interval[1], -backward.interval[0]), rel=1e-9, abs=1e-9)
    assert forward.interval[0] <= forward.mean <= forward.interval[1]


def test_equal_differences_have_a_zero_width_interval() -> None:
    same = paired_difference([2.5, 2.5, 2.5], [2.5, 2.5, 2.5], 4)
    assert (same.interval, same.sd) == ((0.0, 0.0), 0.0)
    moved = paired_difference([3.0, 2.0, 5.0], [1.0, 0.0, 3.0], 4)
    assert moved.interval == (2.0, 2.0)


def test_two_pairs_have_no_interval() -> None:
    found = paired_difference([2.0, 3.0], [1.0, 1.0], 1)
    assert found.interval is None
    assert found.mean == 1.5
    assert paired_difference([2.0], [0.0], 1).relative is None


def test_spread_against_the_standard_library() -> None:
    values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0]
    found = spread(values)
    assert found.mean == pytest.approx(statistics.mean(values))
    assert found.sd == pytest.approx(statistics.stdev(values))
    assert found.median == statistics.median(values)
    assert found.quartiles == tuple(statistics.quantiles(values, n=4, method="inclusive")[::2])
    assert spread([2.0]).sd == 0.0
