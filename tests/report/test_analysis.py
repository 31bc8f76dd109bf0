"""Metrics come from finished runs only, pairs have the same seed, and whatever is missing is reported."""

import math
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from made_sweeps import Maker, curve

from minimind.report.analysis import Arm, Report, analyse, reframed
from minimind.report.answer import answer_of
from minimind.report.statistics import paired_difference
from minimind.report.sweep_file import load_sweep
from minimind.report.tables import constant_metrics, metrics, runs, verdicts
from minimind.report.verdict import Finding
from minimind.runs.folder import RunFolder
from minimind.runs.lock import run_lock
from minimind.utils.errors import UserError

Make = Callable[..., Path]


def read(folder: Path, *, baseline: str | None = None, metric: str | None = None) -> Report:
    return analyse(folder, reframed(load_sweep(folder), baseline, metric))


def arm(report: Report, name: str) -> Arm:
    return next(arm for arm in report.arms if arm.name == name)


def test_metrics_of_an_arm_and_its_difference(two_arms: Make) -> None:
    report = read(two_arms())
    layer = arm(report, "layer")
    losses = [2.05, 2.151, 2.099]
    assert layer.spreads["val/loss"].mean == pytest.approx(statistics.mean(losses))
    assert layer.spreads["val/bits_per_byte"].sd == pytest.approx(statistics.stdev(losses) / 2)
    assert layer.difference == paired_difference(losses, [2.0, 2.1, 2.05], 1)
    assert layer.verdict.finding is Finding.worse
    assert "`layer` is worse by 0.0500 [0.0" in answer_of(report)
    assert (report.baseline.name, report.baseline.verdict) == ("rms", None)
    assert constant_metrics(report) == {"parameters": 1000, "flops": 1e9, "memory/host_peak_mib": 500.0,
                                        "step": 100, "tokens": 25600, "elapsed_s": 5.0, "train/mfu": 0.1,
                                        "train/tokens_per_second": 5006}  # fmt: skip
    assert metrics(report).header == ("arm", "validation loss", "bits per byte")


def test_speed_is_the_median_of_log_points_without_the_first(maker: Maker) -> None:
    maker.run("rms", 1, 2.0)  # 100 tokens per second in the first row, then 5002 to 5010
    maker.run("rms", 2, 2.0, rows=curve(2.0, 2, points=1))
    report = read(maker.sweep("rms"))
    assert [run.metrics["train/tokens_per_second"] for run in report.runs] == [5006, 100]


@pytest.mark.parametrize("state", ["running", "preempted", "failed", "interrupted", "not started"])
def test_unfinished_runs_are_shown_and_not_averaged(two_arms: Make, state: str) -> None:
    stored = {"interrupted": "running", "not started": "failed"}.get(state, state)
    folder = two_arms(loss=99.0, state=stored, reason="out of memory" if state == "failed" else None)
    run = RunFolder(folder.parent.parent / "runs" / "layer-2")
    if state == "running":
        with run_lock(run.lock):
            report = read(folder)
    else:
        if state == "not started":
            for path in run.path.iterdir():
                path.unlink()
        report = read(folder)
    layer = arm(report, "layer")
    assert layer.spreads["val/loss"].mean == pytest.approx((2.05 + 2.099) / 2)
    assert layer.verdict.finding is Finding.undecided
    assert answer_of(report).startswith("With 5 of 6 runs finished, on validation loss")
    (row,) = [row for row in runs(report).rows if row[:2] == ["`layer`", "2"]]
    assert row[2] == ("failed: out of memory" if state == "failed" else state)
    assert any("lost 1 of 3 runs" in caveat for caveat in report.caveats) == (state == "failed")
    assert answer_of(report).endswith(
        "no verdict on `layer` (+0.0495; 2 seeds in common with the baseline, at least 3 needed)."
    )


def test_a_diverged_run_is_not_averaged(two_arms: Make) -> None:
    report = read(two_arms(loss=math.nan))
    assert arm(report, "layer").spreads["val/loss"].count == 2
    assert arm(report, "layer").spreads["parameters"].count == 3
    assert "diverged: val/loss is nan" in [row[2] for row in runs(report).rows]
    assert any("lost 1 of 3 runs" in caveat for caveat in report.caveats)


def test_only_common_seeds_are_paired(maker: Maker) -> None:
    for seed in range(1, 6):
        maker.run("rms", seed, 2.0 + seed)
    for seed in (2, 3, 4, 5, 6):
        maker.run("layer", seed, 2.0 + seed + seed**2 / 100, settings={"model.norm": "layer"})
    report = read(maker.sweep("rms"))
    layer = arm(report, "layer")
    assert layer.difference.pairs == 4
    assert layer.difference.mean == pytest.approx((4 + 9 + 16 + 25) / 400)
    assert layer.verdict.words.endswith("(over 4 of 6 seeds)")
    assert [row[1] for row in verdicts(report).rows] == ["5 of 6", "5 of 6"]


def test_an_arm_that_shares_the_baselines_runs_is_identical(maker: Maker) -> None:
    for seed in (1, 2, 3):
        path = maker.run("rms", seed, 2.0 + seed)
        maker.add("same", seed, path)
    report = read(maker.sweep("rms", differs={}))
    assert arm(report, "same").verdict.words == "identical for every seed"


def test_intervals_of_several_arms_are_corrected(maker: Maker) -> None:
    for name in ("rms", "a", "b", "c"):
        for seed in (1, 2, 3):
            maker.run(name, seed, 2.0 + seed + seed * len(name) / 50, settings={"model.norm": name})
    report = read(maker.sweep("rms"))
    assert [found.difference.confidence for found in report.arms[1:]] == pytest.approx([1 - 0.05 / 3] * 3)


def test_another_baseline_and_another_metric(two_arms: Make) -> None:
    folder = two_arms()
    swapped = read(folder, baseline="layer")
    assert arm(swapped, "rms").difference.mean == pytest.approx(-0.05)
    assert arm(swapped, "rms").verdict.finding is Finding.better
    speed = read(folder, metric="train/tokens_per_second")
    assert arm(speed, "layer").verdict.words == "identical for every seed"
    assert speed.sweep.margin is None
    with pytest.raises(UserError, match=r"must be one of the arms, but is layr; did you mean `layer`"):
        read(folder, baseline="layr")
    with pytest.raises(UserError, match=r"none of 6 finished runs has val/los; did you mean `val/loss`"):
        read(folder, metric="val/los")


def test_repeats_of_a_cost_ablation(maker: Maker) -> None:
    for repeat in range(5):
        for name, base in {"sdpa": 4000.0, "eager": 3000.0}.items():
            rate = base + 10 * repeat
            rows = [{**row, "train/tokens_per_second": rate} for row in curve(2.0, 1)]
            maker.run(name, repeat, 2.0, settings={"seed": 1, "model.norm": name, "run.tag": f"r{repeat}"}, rows=rows)
    report = read(maker.sweep("eager", kind="cost", metric="train/tokens_per_second", margin=0.02))
    assert arm(report, "sdpa").verdict.words == "better by 1,000 [1,000, 1,000] (+33.1%)"
    assert report.margin == pytest.approx(0.02 * 3020)
    assert arm(report, "sdpa").spreads["train/tokens_per_second"].median == 4020.0
    assert "repeats" in verdicts(report).header
    assert not any("rerun after their round" in caveat for caveat in report.caveats)
    RunFolder(report.runs[0].path).update_status(reason=None)  # as if it had been rerun
    again = read(maker.sweep("eager", kind="cost", metric="train/tokens_per_second", margin=0.02))
    assert any("rerun after their round" in caveat for caveat in again.caveats)


def test_a_single_arm_has_a_spread_and_no_verdict(maker: Maker) -> None:
    for seed in (1, 2, 3):
        maker.run("only", seed, 2.0 + seed / 10)
    report = read(maker.sweep("only"))
    assert answer_of(report) == "`only` has a validation loss of 2.2000 ± 0.1000 over 3 seeds; there is no other arm."


def test_without_a_finished_baseline_nothing_is_compared(maker: Maker) -> None:
    maker.run("rms", 1, 2.0, state="failed")
    maker.run("layer", 1, 2.0, settings={"model.norm": "layer"})
    report = read(maker.sweep("rms"))
    assert arm(report, "layer").verdict is None
    assert "nothing can be compared: the baseline `rms` has no run" in answer_of(report)


def test_the_best_value_of_a_setting_is_named(maker: Maker) -> None:
    for rate, loss in {"1e-3": 2.2, "3e-3": 2.0, "1e-2": 2.5}.items():
        for seed in (1, 2, 3):
            maker.run(rate, seed, loss + seed**2 / 1000, settings={"optim.lr": float(rate)})
    report = read(maker.sweep("1e-3", differs={"3e-3": ["optim.lr"], "1e-2": ["optim.lr"]}))
    assert "`3e-3` has the best mean: 2.0047." in answer_of(report)
