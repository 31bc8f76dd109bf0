"""The tables of a report."""

import os
from collections.abc import Mapping
from typing import Any

from minimind.report.analysis import Arm, Report
from minimind.report.blocks import Cell, Link, Table
from minimind.report.figures import Figure, figure_of
from minimind.report.statistics import Spread

USUAL = (
    "val/loss", "val/bits_per_byte", "train/tokens_per_second", "train/mfu", "memory/host_peak_mib",
    "memory/device_peak_mib", "parameters", "active_parameters", "step", "tokens", "flops", "elapsed_s",
)  # fmt: skip
MANY = 8  # settings; more are counted instead of named
NOTHING = "–"


def verdicts(report: Report) -> Table:
    """Arm, pairs, metric, difference, interval, verdict."""
    metric = report.metric
    planned = len(report.sweep.replicates())
    rows = []
    for arm in report.arms:
        found, difference = arm.spreads.get(metric.key), arm.difference
        low_high = difference.interval if difference else None
        rows.append([
            _name(arm, report),
            f"{found.count if found else 0} of {planned}",
            mean_and_sd(metric, found),
            metric.show_signed(difference.mean) if difference else NOTHING,
            f"{difference.relative:+.1%}" if difference and difference.relative is not None else NOTHING,
            "[{}, {}]".format(*map(metric.show_signed, low_high)) if low_high else NOTHING,
            str(difference.degrees_of_freedom) if low_high and difference else NOTHING,
            _verdict(arm, report),
        ])  # fmt: skip
    header = ("arm", f"{report.unit}s", metric.label, "difference", "relative", "interval", "df", "verdict")
    return Table(header, rows, wordy=(0, 7))


def _verdict(arm: Arm, report: Report) -> str:
    if arm is report.baseline:
        return "baseline"
    return (
        arm.verdict.words
        if arm.verdict
        else f"nothing to compare: no pair with the baseline has a {report.metric.label}"
    )


def _name(arm: Arm, report: Report) -> str:
    return f"`{arm.name}` (baseline)" if arm is report.baseline else f"`{arm.name}`"


def mean_and_sd(figure: Figure, found: Spread | None) -> str:
    if found is None:
        return NOTHING
    return figure.show(found.mean) + (f" ± {figure.show(found.sd)}" if found.sd else "")


def median_and_quartiles(figure: Figure, found: Spread | None) -> str:
    if found is None:
        return NOTHING
    low, high = map(figure.show, found.quartiles)
    return figure.show(found.median) + (f" ({low} to {high})" if found.sd else "")


def shown_keys(report: Report) -> list[str]:
    """Figures that some arm has: the metric, what the sweep asks for, the usual ones."""
    keys = dict.fromkeys((report.sweep.metric, *report.sweep.columns, *USUAL))
    return [key for key in keys if any(key in arm.spreads for arm in report.arms)]


def constant_figures(report: Report) -> dict[str, float]:
    """Those that are the same in every finished run: said once, not in a column."""
    found = {}
    for key in shown_keys(report):
        values = {run.figures.get(key) for run in report.runs if run.finished}
        if len(values) == 1 and key != report.sweep.metric and (value := values.pop()) is not None:
            found[key] = value
    return found


def figures(report: Report, show: Any = mean_and_sd) -> Table:
    keys = [key for key in shown_keys(report) if key not in constant_figures(report)]
    shown = [figure_of(key) for key in keys]
    rows = [[_name(arm, report), *(show(item, arm.spreads.get(item.key)) for item in shown)] for arm in report.arms]
    return Table(("arm", *(item.label for item in shown)), rows)


def changes(report: Report) -> Table:
    """What was typed for each arm, and the settings that came of it."""
    rows = []
    for arm in report.arms:
        overrides = " ".join(f"`{override}`" for override in report.sweep.arms[arm.name])
        settings = next((run.settings for run in arm.runs if run.settings), {})
        rows.append([_name(arm, report), overrides or "nothing", _settings(report, arm, settings)])
    return Table(("arm", "overrides", "settings that differ from the baseline's"), rows, wordy=(0, 1, 2))


def _settings(report: Report, arm: Arm, settings: Mapping[str, Any]) -> str:
    if arm is report.baseline:
        return NOTHING
    keys = report.sweep.differs.get(arm.name, [])
    if len(keys) > MANY:
        return f"{len(keys)}: " + ", ".join(f"`{key}`" for key in keys)
    return ", ".join(f"`{key}={settings[key]}`" if key in settings else f"`{key}`" for key in keys) or "none"


def runs(report: Report) -> Table:
    """Every run with its state, the metric, and a link to its folder."""
    metric = report.metric
    rows: list[list[Cell]] = []
    for run in report.runs:
        value = run.figure(metric.key)
        trouble = run.trouble(metric.key)
        state = trouble or run.state + (f" ({run.reason})" if run.reason else "")
        target = os.path.relpath(run.path, report.folder.resolve())
        cell: Cell = Link(run.path.name, target) if run.status else run.path.name
        rows.append(
            [f"`{run.job.arm}`", str(run.job.replicate), state, NOTHING if value is None else metric.show(value), cell]
        )
    return Table(("arm", report.unit, "state", metric.label, "run"), rows, wordy=(0, 2, 4))
