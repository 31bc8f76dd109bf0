"""Turns a sweep's run folders into arms with metrics, differences from the baseline, and verdicts."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from minimind.objectives.config import primary_of
from minimind.report.comparable import caveats, refuse_unequal
from minimind.report.metrics import Metric, metric_of
from minimind.report.run_record import RunRecord, read_run
from minimind.report.statistics import Difference, Spread, paired_difference, spread
from minimind.report.sweep_file import Sweep, load_outcomes
from minimind.report.verdict import Verdict, judge
from minimind.runs.states import RunState
from minimind.utils.errors import UserError, suggestion
from minimind.utils.paths import default_root


@dataclass(frozen=True)
class Arm:
    name: str
    runs: list[RunRecord]
    spreads: dict[str, Spread]  # metric → spread over the finished runs
    difference: Difference | None  # None: the baseline itself, or no run is paired with it
    verdict: Verdict | None  # None: likewise

    def by_replicate(self, key: str) -> dict[int, float]:
        """Maps each replicate to its value of the metric, for the runs that have one."""
        values = {run.job.replicate: run.metric(key) for run in self.runs}
        return {replicate: value for replicate, value in values.items() if value is not None}


@dataclass(frozen=True)
class Report:
    folder: Path
    sweep: Sweep
    arms: list[Arm]  # in the planned order, or sorted by value if each arm is a value of one setting
    caveats: list[str]

    @property
    def metric(self) -> Metric:
        return metric_of(self.sweep.metric)

    @property
    def primary(self) -> Metric:
        """The primary metric of the objective that the baseline was trained with."""
        started = (run for run in [*self.baseline.runs, *self.runs] if run.settings)
        kind = next((run.settings.get("objective.kind") for run in started), None)
        return metric_of(primary_of(kind)[0])

    @property
    def margin(self) -> float | None:
        """The margin in units of the metric."""
        return margin_of(self.sweep, self.baseline.by_replicate(self.sweep.metric).values())

    @property
    def unit(self) -> str:
        return self.sweep.unit

    @property
    def runs(self) -> list[RunRecord]:
        return [run for arm in self.arms for run in arm.runs]

    @property
    def baseline(self) -> Arm:
        return next(arm for arm in self.arms if arm.name == self.sweep.baseline)

    @property
    def others(self) -> list[Arm]:
        return [arm for arm in self.arms if arm.name != self.sweep.baseline]


def analyse(folder: Path, sweep: Sweep) -> Report:
    """Reads and compares the runs of the sweep in `folder`.

    Raises:
        UserError: runs differ in what must be held constant, or none has the metric.
    """
    failures = load_outcomes(folder)
    runs = [read_run(job, run_path(job.run, folder), failures.get(Path(job.run).name)) for job in sweep.jobs]
    refuse_unequal(sweep, runs)
    _check_metric(sweep.metric, runs)
    by_name = {name: _arm(name, [run for run in runs if run.job.arm == name]) for name in arm_order(sweep)}
    baseline = by_name[sweep.baseline]
    arms = [arm if arm is baseline else _compared(arm, baseline, sweep) for arm in by_name.values()]
    return Report(folder, sweep, arms, [*caveats(sweep, runs), *survivorship(arms, sweep.metric)])


def arm_order(sweep: Sweep) -> list[str]:
    """Arm names in display order: by value if they have one, else as planned (sweep.json sorts `arms`, not `jobs`)."""
    names = list(dict.fromkeys([*(job.arm for job in sweep.jobs), *sweep.arms]))
    values = arm_values(names)
    return names if values is None else [name for _, name in sorted(zip(values, names, strict=True))]


def arm_values(names: Sequence[str]) -> list[float] | None:
    """The number in each arm name (`3e-3` or `lr=3e-3`) if all arms are values of one setting, else None."""
    settings, values = zip(*(name.rpartition("=")[::2] for name in names), strict=True)
    if len(set(settings)) > 1 or len(names) < 2:
        return None
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None  # an axis cannot show `inf`


def run_path(run: str, sweep_folder: Path) -> Path:
    """Resolves a run folder: absolute, or relative to the root of the sweep or, if that was moved, the current root."""
    candidates = [root / run for root in (sweep_folder.resolve().parent.parent, default_root())]
    return next((path for path in candidates if path.exists()), candidates[0])


def reframed(sweep: Sweep, baseline: str | None, metric: str | None) -> Sweep:
    """The same runs with another baseline or metric. The margin applies only to the sweep's own metric.

    Raises:
        UserError: the baseline is not an arm.
    """
    if metric is not None and metric != sweep.metric:
        sweep = replace(sweep, metric=metric, margin=None)
    if baseline is None or baseline == sweep.baseline:
        return sweep
    if baseline not in sweep.arms:
        raise UserError(
            f"The baseline must be one of the arms, but is {baseline}; {suggestion(baseline, [*sweep.arms])}"
        )
    changed = {*sweep.differs.get(baseline, [])}  # whatever either arm changes may differ between the two
    differs = {arm: sorted({*sweep.differs.get(arm, []), *changed}) for arm in sweep.arms if arm != baseline}
    return replace(sweep, baseline=baseline, differs=differs)


def _arm(name: str, runs: list[RunRecord]) -> Arm:
    keys = dict.fromkeys(key for run in runs for key in run.metrics)
    values = {key: [value for run in runs if (value := run.metric(key)) is not None] for key in keys}
    return Arm(name, runs, {key: spread(found) for key, found in values.items() if found}, None, None)


def _compared(arm: Arm, baseline: Arm, sweep: Sweep) -> Arm:
    values, base_values = arm.by_replicate(sweep.metric), baseline.by_replicate(sweep.metric)
    common = sorted(values.keys() & base_values.keys())
    if not common:
        return arm
    difference = paired_difference([values[i] for i in common], [base_values[i] for i in common], len(sweep.arms) - 1)
    verdict = judge(difference, metric_of(sweep.metric), margin_of(sweep, base_values.values()), sweep.unit)
    if sweep.kind == "cost" and difference.relative is not None:  # absolute costs do not transfer to other machines
        verdict = replace(verdict, words=f"{verdict.words} ({difference.relative:+.1%})")
    planned = len(sweep.replicates())
    if difference.interval and len(common) < planned:
        verdict = replace(verdict, words=f"{verdict.words} (over {len(common)} of {planned} {sweep.unit}s)")
    return replace(arm, difference=difference, verdict=verdict)


def margin_of(sweep: Sweep, baseline: Collection[float]) -> float | None:
    """The margin in units of the metric. For costs it is configured as a fraction of the baseline's mean."""
    if sweep.margin is None or sweep.kind != "cost" or not baseline:
        return sweep.margin
    return sweep.margin * abs(sum(baseline) / len(baseline))


def _check_metric(metric: str, runs: Iterable[RunRecord]) -> None:
    finished = [run for run in runs if run.state == RunState.FINISHED]
    known = sorted({key for run in finished for key in run.metrics})
    if finished and metric not in known:
        raise UserError(
            f"The metric must be in the summary.json of a run, but none of {len(finished)} finished runs has {metric}; "
            + suggestion(metric, known)
        )


def survivorship(arms: Iterable[Arm], metric: str) -> list[str]:
    """Caveats on arms that lost runs, possibly because of what the arm changes."""
    found = []
    for arm in arms:
        lost = [run for run in arm.runs if run.state == RunState.FAILED or (run.finished and run.exclusion(metric))]
        if lost:
            found.append(
                f"`{arm.name}` lost {len(lost)} of {len(arm.runs)} runs (failed or diverged): its metrics cover only "
                "the remaining runs and may flatter it."
            )
    return found
