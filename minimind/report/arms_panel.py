"""The panel that answers the question: each arm's metric, with the interval of its difference to the baseline."""

from typing import Any

from minimind.report.analysis import Arm, Report
from minimind.report.number_arms import numbers_of
from minimind.utils.terminal import one_line

GREY = "0.45"
BELOW = 0.25  # the runs' points, so that they do not hide the interval
LONGEST = 30  # characters of a name


def draw_arms(axes: Any, report: Report, colours: dict[str, Any]) -> None:
    """Points: runs; diamonds: means; bars: intervals, drawn from the baseline's mean; grey: the margin about it."""
    numbers = numbers_of([arm.name for arm in report.arms])
    base = report.baseline.spreads.get(report.sweep.metric)
    if numbers is None:
        _by_name(axes, report, colours)
    else:
        _by_number(axes, report, colours, numbers)
    if base is not None:
        line, span = (axes.axvline, axes.axvspan) if numbers is None else (axes.axhline, axes.axhspan)
        line(base.mean, color=GREY, lw=1.2, ls="--", zorder=0)
        if report.margin:
            span(base.mean - report.margin, base.mean + report.margin, color="0.9", zorder=-1)
    axes.grid(alpha=0.3)


def _by_name(axes: Any, report: Report, colours: dict[str, Any]) -> None:
    for row, arm in enumerate(report.arms):
        values = [*arm.counted(report.sweep.metric).values()]
        colour = colours[arm.name]
        axes.plot(values, [row + BELOW] * len(values), "o", color=colour, alpha=0.45, ms=7, mew=0)
        if found := arm.spreads.get(report.sweep.metric):
            axes.plot(found.mean, row, "D", color=colour, ms=8)
        else:
            axes.text(
                0.5, row, "no finished run", transform=axes.get_yaxis_transform(), ha="center", va="center", color=GREY
            )
        if ends := interval_from_baseline(arm, report):
            axes.errorbar([sum(ends) / 2], [row], xerr=[(ends[1] - ends[0]) / 2], color=colour, capsize=5, lw=2)
    axes.set_yticks(range(len(report.arms)), [shortened(arm.name) for arm in report.arms])
    axes.get_yticklabels()[report.arms.index(report.baseline)].set_fontweight("bold")
    axes.set_ylim(len(report.arms) - 0.4, -0.6)
    axes.set_xlabel(_metric_label(report))


def _by_number(axes: Any, report: Report, colours: dict[str, Any], numbers: list[float]) -> None:
    means = {}
    for number, arm in zip(numbers, report.arms, strict=True):
        values = [*arm.counted(report.sweep.metric).values()]
        colour = colours[arm.name]
        axes.plot([number] * len(values), values, "o", color=colour, alpha=0.45, ms=7, mew=0)
        if found := arm.spreads.get(report.sweep.metric):
            means[number] = found.mean
            axes.plot(number, found.mean, "D", color=colour, ms=8)
        if ends := interval_from_baseline(arm, report):
            axes.errorbar([number], [sum(ends) / 2], yerr=[(ends[1] - ends[0]) / 2], color=colour, capsize=5, lw=2)
    axes.plot(*zip(*sorted(means.items()), strict=True), color=GREY, lw=1, zorder=0)
    if min(numbers) > 0:
        axes.set_xscale("log")
    names = [arm.name.rpartition("=") for arm in report.arms]
    axes.set_xticks(numbers, [one_line(name[2]) for name in names])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(one_line(f"{names[0][0] or 'arm'} (baseline: {report.sweep.baseline.rpartition('=')[2]})"))
    axes.set_ylabel(_metric_label(report))


def interval_from_baseline(arm: Arm, report: Report) -> tuple[float, float] | None:
    """The interval of the difference, on the metric's own scale."""
    base = report.baseline.spreads.get(report.sweep.metric)
    if base is None or arm.difference is None or arm.difference.interval is None:
        return None
    low, high = arm.difference.interval
    return base.mean + low, base.mean + high


def shortened(name: str) -> str:
    """Both ends of a long name, as either may be what tells it from others."""
    name, half = one_line(name), LONGEST // 2
    return name if len(name) <= LONGEST else f"{name[:half]}…{name[-half:]}"


def _metric_label(report: Report) -> str:
    better = report.metric.better
    return one_line(report.metric.label) + (f" ({better.value} is better)" if better else "")
