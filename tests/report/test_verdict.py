"""A verdict is true of every value in its interval."""

import pytest

from minimind.report.metrics import Better, best_key, metric_of
from minimind.report.statistics import Difference
from minimind.report.verdict import Finding, judge

LOSS, SPEED, OTHER = "val/loss", "train/tokens_per_second", "my/angle"


def interval(low: float, high: float, pairs: int = 3) -> Difference:
    return Difference(pairs, (low + high) / 2, None, 0.01, (low, high), 0.95)


@pytest.mark.parametrize(
    ("key", "low", "high", "margin", "finding", "words"),
    [
        (LOSS, -0.044, -0.018, 0.01, Finding.better, "better by 0.0310 [0.0180, 0.0440]"),
        (LOSS, 0.018, 0.044, 0.01, Finding.worse, "worse by 0.0310 [0.0180, 0.0440]"),
        (LOSS, 0.004, 0.044, 0.01, Finding.worse, "worse by 0.0240 [0.0040, 0.0440], perhaps by less than 0.01"),
        (LOSS, -0.01, 0.03, 0.01, Finding.not_shown, "no difference shown (+0.0100 [-0.0100, +0.0300])"),
        (LOSS, -0.01, 0.008, 0.01, Finding.equal, "equal within ±0.01 (-0.0010 [-0.0100, +0.0080])"),
        (LOSS, -0.009, -0.001, 0.01, Finding.equal, "equal within ±0.01 (better by 0.0050 [0.0010, 0.0090])"),
        (LOSS, -0.001, 0.001, None, Finding.not_shown, "no difference shown (+0.0000 [-0.0010, +0.0010])"),
        (LOSS, 0.0, 0.0, None, Finding.equal, "identical for every seed"),
        (LOSS, 0.02, 0.02, 0.01, Finding.worse, "worse by 0.0200 [0.0200, 0.0200]"),
        (SPEED, 1000, 3000, 50, Finding.better, "better by 2,000 [1,000, 3,000]"),
        (SPEED, -3000, -1000, 50, Finding.worse, "worse by 2,000 [1,000, 3,000]"),
        (OTHER, 1, 3, None, Finding.higher, "higher by 2 [1, 3]"),
        (OTHER, -3, -1, None, Finding.lower, "lower by 2 [1, 3]"),
    ],
)
def test_wording(key: str, low: float, high: float, margin: float | None, finding: Finding, words: str) -> None:
    found = judge(interval(low, high), metric_of(key), margin, "seed")
    assert (found.finding, found.words) == (finding, words)


def test_too_few_pairs_get_no_verdict() -> None:
    found = judge(Difference(2, -5.0, None, 0.0, None, 0.95), metric_of(LOSS), 0.01, "seed")
    assert found.finding is Finding.undecided
    assert found.words == "no verdict (-5.0000; 2 seeds in common with the baseline, at least 3 needed)"


@pytest.mark.parametrize(
    ("key", "better"),
    [
        ("val/loss", "lower"), ("val/prose/loss", "lower"), ("val/bits_per_byte", "lower"), ("val/perplexity", "lower"),
        ("memory/device_peak_mib", "lower"), ("elapsed_s", "lower"), ("moe/max_load", "lower"), ("train/mfu", "higher"),
        ("train/tokens_per_second", "higher"), ("generate/tokens_per_second", "higher"), ("parameters", None),
    ],
)  # fmt: skip
def test_which_direction_is_better(key: str, better: str | None) -> None:
    found = metric_of(key).better
    assert (found and found.value) == better


def test_an_objective_declares_which_direction_of_its_metric_is_better(preference: str) -> None:
    for key in ("val/chosen", best_key("val/chosen")):
        assert metric_of(key).better is Better.higher
    assert judge(interval(0.1, 0.2), metric_of("val/chosen"), 0.01, "seed").finding is Finding.better
    assert best_key("val/loss") == "best_val_loss"
    assert metric_of("val/loss").better is Better.lower
