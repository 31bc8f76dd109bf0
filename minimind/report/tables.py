"""The tables of a report."""

import os
from collections.abc import Callable, Sequence

from minimind.report.analysis import Arm, Report
from minimind.report.blocks import Cell, Link, Table
from minimind.report.metrics import Metric, metric_of
from minimind.report.statistics import Spread

DEFAULT_KEYS = (
    "val/loss", "val/bits_per_byte", "train/tokens_per_second", "train/mfu", "memory/host_peak_mib",
    "memory/device_peak_mib", "parameters", "active_parameters", "step", "tokens", "flops", "elapsed_s",
)  # fmt: skip
EMPTY = "–"


def verdicts(report: Report) -> Table:
    """Each arm's metric, and its verdict with the difference and interval."""
    metric = report.metric
    planned = len(report.sweep.replicates())
    rows = []
    for arm in report.arms:
        found, difference = arm.spreads.get(metric.key), arm.difference
        relative = EMPTY if difference is None or difference.relative is None else f"{difference.relative:+.2%}"
        degrees = str(difference.degrees_of_freedom) if difference and difference.interval else EMPTY
        num_runs = f"{found.count if found else 0} of {planned}"
        rows.append(
            [_name(arm, report), num_runs, mean_and_sd(metric, found), relative, degrees, _verdict(arm, report)]
        )
    header = ("arm", f"{report.unit}s", metric.label, "relative", "df", "vs. baseline")
    return Table(header, rows, text_columns=(0, 5))


def _verdict(arm: Arm, report: Report) -> str:
    if arm.verdict:
        return arm.verdict.words
    return EMPTY if arm is report.baseline else "nothing to compare: no run is paired with a baseline run"


def _name(arm: Arm, report: Report) -> str:
    return f"`{arm.name}` (baseline)" if arm is report.baseline else f"`{arm.name}`"


def mean_and_sd(metric: Metric, found: Spread | None) -> str:
    if found is None:
        return EMPTY
    return metric.show(found.mean) + (f" ± {metric.show(found.sd)}" if found.sd else "")


def median_and_quartiles(metric: Metric, found: Spread | None) -> str:
    if found is None:
        return EMPTY
    low, high = map(metric.show, found.quartiles)
    return metric.show(found.median) + (f" ({low} to {high})" if found.sd else "")


def column_keys(report: Report) -> list[str]:
    """Keys of the metrics to show, if any arm has them: the sweep's, the objective's primary metric, the defaults."""
    keys = dict.fromkeys((report.sweep.metric, *report.sweep.columns, report.primary.key, *DEFAULT_KEYS))
    if all(run.metrics.get("active_parameters") == run.metrics.get("parameters") for run in report.runs):
        keys.pop("active_parameters", None)
    return [key for key in keys if any(key in arm.spreads for arm in report.arms)]


def constant_metrics(report: Report) -> dict[str, float]:
    """Metrics that are equal in every finished run, which do not need a column."""
    found = {}
    for key in column_keys(report):
        values = {run.metrics.get(key) for run in report.runs if run.finished}
        if len(values) == 1 and key != report.sweep.metric and (value := values.pop()) is not None:
            found[key] = value
    return found


def metrics(report: Report, show: Callable[[Metric, Spread | None], str] = mean_and_sd) -> Table:
    keys = [key for key in column_keys(report) if key not in constant_metrics(report)]
    shown = [metric_of(key) for key in keys]
    rows = [[_name(arm, report), *(show(item, arm.spreads.get(item.key)) for item in shown)] for arm in report.arms]
    return Table(("arm", *(item.label for item in shown)), rows)


def changes(report: Report) -> Table:
    """The overrides of each arm, and the other settings that they changed."""
    rows = []
    for arm in report.arms:
        overrides = report.sweep.arms[arm.name]
        settings = next((run.settings for run in arm.runs if run.settings), {})
        differing = [
            f"{key}={settings[key]}" if key in settings else key for key in report.sweep.differs.get(arm.name, [])
        ]
        rows.append(
            [_name(arm, report), _codes(overrides), _codes([item for item in differing if item not in overrides])]
        )
    header = ("arm", "overrides", "other settings that differ from the baseline")
    used = [column for column in range(3) if any(row[column] != EMPTY for row in rows)]
    return Table([header[c] for c in used], [[row[c] for c in used] for row in rows], text_columns=range(len(used)))


def _codes(items: Sequence[str]) -> str:
    return ", ".join(f"`{item}`" for item in items) or EMPTY


def runs(report: Report) -> Table:
    """Every run with its state, the metric, and a link to its folder."""
    metric = report.metric
    rows: list[list[Cell]] = []
    for run in report.runs:
        value = run.metric(metric.key)
        state = run.exclusion(metric.key) or run.state + (f" ({run.reason})" if run.reason else "")
        target = os.path.relpath(run.path, report.folder.resolve())
        cell: Cell = Link(run.path.name, target) if run.status else run.path.name
        rows.append(
            [f"`{run.job.arm}`", str(run.job.replicate), state, EMPTY if value is None else metric.show(value), cell]
        )
    return Table(("arm", report.unit, "state", metric.label, "run"), rows, text_columns=(0, 2, 4))
