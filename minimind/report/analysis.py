"""A sweep's run folders → its arms: metrics, differences to the baseline, verdicts."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from minimind.objectives.config import primary_of
from minimind.report.comparable import caveats, refuse_unequal
from minimind.report.metrics import Metric, metric_of
from minimind.report.number_arms import numbers_of
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
    spreads: dict[str, Spread]  # of the metrics of its finished runs
    difference: Difference | None  # None: the baseline, or no pair with it
    verdict: Verdict | None  # likewise

    def counted(self, key: str) -> dict[int, float]:
        """Replicate → the metric, of the runs that have it."""
        values = {run.job.replicate: run.metric(key) for run in self.runs}
        return {replicate: value for replicate, value in values.items() if value is not None}


@dataclass(frozen=True)
class Report:
    folder: Path
    sweep: Sweep
    arms: list[Arm]  # as planned, or by size where they are values of one quantity
    caveats: list[str]

    @property
    def metric(self) -> Metric:
        return metric_of(self.sweep.metric)

    @property
    def primary(self) -> Metric:
        """What the objective of the baseline's runs is judged by."""
        started = (run for run in [*self.baseline.runs, *self.runs] if run.settings)
        kind = next((run.settings.get("objective.kind") for run in started), None)
        return metric_of(primary_of(kind)[0])

    @property
    def margin(self) -> float | None:
        """In units of the metric."""
        return margin_of(self.sweep, self.baseline.counted(self.sweep.metric).values())

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
    """Reads the run folders of the sweep in `folder`.

    Raises:
        UserError: runs differ in what was to be held equal, or none has the metric.
    """
    failures = load_outcomes(folder)
    runs = [read_run(job, run_path(job.run, folder), failures.get(Path(job.run).name)) for job in sweep.jobs]
    refuse_unequal(sweep, runs)
    _check_metric(sweep.metric, runs)
    alone = {name: _arm(name, [run for run in runs if run.job.arm == name]) for name in in_order(sweep)}
    baseline = alone[sweep.baseline]
    arms = [arm if arm is baseline else _compared(arm, baseline, sweep) for arm in alone.values()]
    return Report(folder, sweep, arms, [*caveats(sweep, runs), *survivors(arms, sweep.metric)])


def in_order(sweep: Sweep) -> list[str]:
    """The names of the arms; sweep.json keeps them by the alphabet, its jobs as they were planned."""
    names = list(dict.fromkeys([*(job.arm for job in sweep.jobs), *sweep.arms]))
    numbers = numbers_of(names)
    return names if numbers is None else [name for _, name in sorted(zip(numbers, names, strict=True))]


def run_path(run: str, sweep_folder: Path) -> Path:
    """The run folder: absolute, or below the root the sweep was made in, or (it was moved) below the present one."""
    candidates = [root / run for root in (sweep_folder.resolve().parent.parent, default_root())]
    return next((path for path in candidates if path.exists()), candidates[0])


def reframed(sweep: Sweep, baseline: str | None, metric: str | None) -> Sweep:
    """The same runs, compared with another arm or by another metric, for which the margin is not meant.

    Raises:
        UserError: the baseline is no arm.
    """
    if metric is not None and metric != sweep.metric:
        sweep = replace(sweep, metric=metric, margin=None)
    if baseline is None or baseline == sweep.baseline:
        return sweep
    if baseline not in sweep.arms:
        raise UserError(f"The baseline must be an arm, but is {baseline}; {suggestion(baseline, [*sweep.arms])}")
    changed = {*sweep.differs.get(baseline, [])}  # what two arms change may differ between them
    differs = {arm: sorted({*sweep.differs.get(arm, []), *changed}) for arm in sweep.arms if arm != baseline}
    return replace(sweep, baseline=baseline, differs=differs)


def _arm(name: str, runs: list[RunRecord]) -> Arm:
    keys = dict.fromkeys(key for run in runs for key in run.metrics)
    values = {key: [value for run in runs if (value := run.metric(key)) is not None] for key in keys}
    return Arm(name, runs, {key: spread(found) for key, found in values.items() if found}, None, None)


def _compared(arm: Arm, baseline: Arm, sweep: Sweep) -> Arm:
    mine, its = arm.counted(sweep.metric), baseline.counted(sweep.metric)
    common = sorted(mine.keys() & its.keys())
    if not common:
        return arm
    difference = paired_difference([mine[seed] for seed in common], [its[seed] for seed in common], len(sweep.arms) - 1)
    verdict = judge(difference, metric_of(sweep.metric), margin_of(sweep, its.values()), sweep.unit)
    if sweep.kind == "cost" and difference.relative is not None:  # what carries over to another machine, if anything
        verdict = replace(verdict, words=f"{verdict.words} ({difference.relative:+.1%})")
    planned = len(sweep.replicates())
    if difference.interval and len(common) < planned:
        verdict = replace(verdict, words=f"{verdict.words} (over {len(common)} of {planned} {sweep.unit}s)")
    return replace(arm, difference=difference, verdict=verdict)


def margin_of(sweep: Sweep, baseline: Collection[float]) -> float | None:
    """In units of the metric: of costs, which depend on the machine, it is given as a share of the baseline's mean."""
    if sweep.margin is None or sweep.kind != "cost" or not baseline:
        return sweep.margin
    return sweep.margin * abs(sum(baseline) / len(baseline))


def _check_metric(metric: str, runs: Iterable[RunRecord]) -> None:
    finished = [run for run in runs if run.state == RunState.FINISHED]
    known = sorted({key for run in finished for key in run.metrics})
    if finished and metric not in known:
        raise UserError(
            f"The metric must be one in the runs' summary.json, but none of {len(finished)} has {metric}; "
            + suggestion(metric, known)
        )


def survivors(arms: Iterable[Arm], metric: str) -> list[str]:
    """Arms that lost runs to something that may be the arm's own doing."""
    found = []
    for arm in arms:
        lost = [run for run in arm.runs if run.state == RunState.FAILED or (run.finished and run.trouble(metric))]
        if lost:
            found.append(
                f"`{arm.name}` lost {len(lost)} of {len(arm.runs)} runs (failed or diverged): its metrics are of "
                "those that survived, and may flatter it."
            )
    return found
