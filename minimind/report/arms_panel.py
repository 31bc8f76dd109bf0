"""The panel of the report picture that shows each arm's metric and the interval of its difference from the baseline."""

from typing import Any

from minimind.report.analysis import Arm, Report, arm_values
from minimind.utils.terminal import one_line

GREY = "0.45"
POINT_OFFSET = 0.25  # rows by which a run's points are drawn below the interval, which they would hide
MAX_NAME = 30  # characters


def draw_arms(axes: Any, report: Report, colours: dict[str, Any]) -> None:
    """Points: runs; diamonds: means; bars: intervals, offset by the baseline's mean; grey: the margin around it."""
    values = arm_values([arm.name for arm in report.arms])
    base = report.baseline.spreads.get(report.sweep.metric)
    if values is None:
        _by_name(axes, report, colours)
    else:
        _by_value(axes, report, colours, values)
    if base is not None:
        line, span = (axes.axvline, axes.axvspan) if values is None else (axes.axhline, axes.axhspan)
        line(base.mean, color=GREY, lw=1.2, ls="--", zorder=0)
        if report.margin:
            span(base.mean - report.margin, base.mean + report.margin, color="0.9", zorder=-1)
    axes.grid(alpha=0.3)


def _by_name(axes: Any, report: Report, colours: dict[str, Any]) -> None:
    for row, arm in enumerate(report.arms):
        run_values = [*arm.by_replicate(report.sweep.metric).values()]
        colour = colours[arm.name]
        axes.plot(run_values, [row + POINT_OFFSET] * len(run_values), "o", color=colour, alpha=0.45, ms=7, mew=0)
        if found := arm.spreads.get(report.sweep.metric):
            axes.plot(found.mean, row, "D", color=colour, ms=8)
        else:
            axes.text(
                0.5, row, "no finished run", transform=axes.get_yaxis_transform(), ha="center", va="center", color=GREY
            )
        if ends := interval_on_axis(arm, report):
            axes.errorbar([sum(ends) / 2], [row], xerr=[(ends[1] - ends[0]) / 2], color=colour, capsize=5, lw=2)
    axes.set_yticks(range(len(report.arms)), [shorten(arm.name) for arm in report.arms])
    axes.get_yticklabels()[report.arms.index(report.baseline)].set_fontweight("bold")
    axes.set_ylim(len(report.arms) - 0.4, -0.6)
    axes.set_xlabel(_metric_label(report))


def _by_value(axes: Any, report: Report, colours: dict[str, Any], values: list[float]) -> None:
    means = {}
    for value, arm in zip(values, report.arms, strict=True):
        run_values = [*arm.by_replicate(report.sweep.metric).values()]
        colour = colours[arm.name]
        axes.plot([value] * len(run_values), run_values, "o", color=colour, alpha=0.45, ms=7, mew=0)
        if found := arm.spreads.get(report.sweep.metric):
            means[value] = found.mean
            axes.plot(value, found.mean, "D", color=colour, ms=8)
        if ends := interval_on_axis(arm, report):
            axes.errorbar([value], [sum(ends) / 2], yerr=[(ends[1] - ends[0]) / 2], color=colour, capsize=5, lw=2)
    axes.plot(*zip(*sorted(means.items()), strict=True), color=GREY, lw=1, zorder=0)
    if min(values) > 0:
        axes.set_xscale("log")
    names = [arm.name.rpartition("=") for arm in report.arms]
    axes.set_xticks(values, [one_line(name[2]) for name in names])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(one_line(f"{names[0][0] or 'arm'} (baseline: {report.sweep.baseline.rpartition('=')[2]})"))
    axes.set_ylabel(_metric_label(report))


def interval_on_axis(arm: Arm, report: Report) -> tuple[float, float] | None:
    """The interval of the difference, offset by the baseline's mean."""
    base = report.baseline.spreads.get(report.sweep.metric)
    if base is None or arm.difference is None or arm.difference.interval is None:
        return None
    low, high = arm.difference.interval
    return base.mean + low, base.mean + high


def shorten(name: str) -> str:
    """Keeps both ends of a long name, as either may distinguish it from the others."""
    name, half = one_line(name), MAX_NAME // 2
    return name if len(name) <= MAX_NAME else f"{name[:half]}…{name[-half:]}"


def _metric_label(report: Report) -> str:
    better = report.metric.better
    return one_line(report.metric.label) + (f" ({better.value} is better)" if better else "")
