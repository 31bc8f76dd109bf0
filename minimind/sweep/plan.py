"""A sweep before it starts: every job composed and checked, each identity once, and what is to be compared."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minimind.report.config import AblationConfig, Budget, Kind
from minimind.report.sweep_file import Sweep, SweepJob
from minimind.runs.identity import is_hashed, leaves
from minimind.sweep.budget import max_steps
from minimind.sweep.compose import Compose, Composed
from minimind.sweep.trials import Trial, key_of, merged, parse
from minimind.utils.errors import ConfigError

PER_JOB = ("run.command",)  # differs with the spelling of the same settings


@dataclass(frozen=True)
class SweepPlan:
    sweep: Sweep
    folder: Path
    jobs: list[tuple[tuple[str, ...], Composed]]  # overrides and what they come to; each run once


def plan_sweep(
    trials: Sequence[Trial], compose: Compose, ablation: AblationConfig | None, name: str, command: str
) -> SweepPlan:
    """Raises: ConfigError, with what is wrong in any job."""
    composed = compose_all(trials, compose)
    if ablation is not None and ablation.budget is not Budget.steps:
        composed = compose_all([within_budget(trial, composed, ablation) for trial in trials], compose)
    unique = once_each(composed)
    paths = next(iter(composed.values())).plan.cfg.paths
    hashes = sorted(one.plan.folder.path.name[-8:] for one in unique.values())
    identity = hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:8]
    jobs = [
        SweepJob(trial.arm, trial.replicate, _relative(one.plan.folder.path, paths.root), list(trial.overrides))
        for trial, one in composed.items()
    ]
    asked = question_of(ablation, composed) if ablation is not None else question_of_grid(trials, composed)
    sweep = Sweep(name=name, command=command, jobs=jobs, differs=differences(composed, asked["baseline"]), **asked)
    overrides = {str(one.plan.folder.path): trial.overrides for trial, one in reversed(composed.items())}
    folder = Path(paths.sweeps) / f"{name}-{identity}"
    return SweepPlan(sweep, folder, [(overrides[run], one) for run, one in unique.items()])


def compose_all(trials: Sequence[Trial], compose: Compose) -> dict[Trial, Composed]:
    """Raises: ConfigError, with each mistake once and the arms that have it."""
    composed: dict[Trial, Composed] = {}
    found: dict[str, list[str]] = {}
    for trial in trials:
        try:
            composed[trial] = compose(trial.overrides)
        except ConfigError as error:
            for problem in error.problems:
                arms = found.setdefault(problem, [])
                arms += [] if trial.arm in arms else [trial.arm]
    if found:
        every = {trial.arm for trial in trials}
        raise ConfigError([
            problem if set(arms) == every else f"arm {', '.join(arms)}: {problem}" for problem, arms in found.items()
        ])  # fmt: skip
    return composed


def within_budget(trial: Trial, composed: dict[Trial, Composed], ablation: AblationConfig) -> Trial:
    if any(key_of(override) == "trainer.max_steps" for override in parse(ablation.arms[trial.arm])):
        raise ConfigError([
            f"arm {trial.arm} must not set `trainer.max_steps`: `ablation.budget: {ablation.budget.value}` does."
        ])  # fmt: skip
    configs = {(one.arm, one.replicate): c.plan.cfg for one, c in composed.items()}
    baseline = configs[ablation.baseline, trial.replicate]
    steps = max_steps(ablation.budget, baseline, configs[trial.arm, trial.replicate])
    return Trial(trial.arm, trial.replicate, merged(trial.overrides, [f"trainer.max_steps={steps}"]))


def once_each(composed: dict[Trial, Composed]) -> dict[str, Composed]:
    """Run folder → job. Two jobs of one identity are one run, if they agree in the rest.

    Raises:
        ConfigError: they do not.
    """
    unique: dict[str, Composed] = {}
    found = []
    for trial, one in composed.items():
        other = unique.setdefault(str(one.plan.folder.path), one)
        mine, theirs = leaves(one.plan.config), leaves(other.plan.config)
        keys = [k for k in mine.keys() | theirs.keys() if k not in PER_JOB and mine.get(k) != theirs.get(k)]
        if keys:
            found.append(
                f"arm {trial.arm} is the same run as another, but for {', '.join(sorted(keys))}, which make no other "
                "run: give both the same, or one of them run.tag=…"
            )
    if found:
        raise ConfigError(found)
    return unique


def question_of(ablation: AblationConfig, composed: dict[Trial, Composed]) -> dict[str, Any]:
    """The fields of a Sweep that say what is compared with what."""
    metric = ablation.metric or common_primary(composed)
    return {
        "kind": ablation.kind.value, "baseline": ablation.baseline, "metric": metric, "arms": ablation.arms,
        "question": ablation.question, "claim": ablation.claim, "margin": ablation.margin,
        "budget": ablation.budget.value, "columns": ablation.columns,
    }  # fmt: skip


def question_of_grid(trials: Sequence[Trial], composed: dict[Trial, Composed]) -> dict[str, Any]:
    """The same of a sweep without a question: the first arm is the baseline, and its objective names the metric."""
    arms = {trial.arm: list(trial.overrides) for trial in trials}
    metric, _ = composed[trials[0]].plan.cfg.objective.primary
    return {"kind": Kind.quality.value, "baseline": trials[0].arm, "metric": metric, "arms": arms}


def common_primary(composed: dict[Trial, Composed]) -> str:
    """The metric that every arm's objective is judged by.

    Raises:
        ConfigError: there is no such one.
    """
    by_arm = {trial.arm: one.plan.cfg.objective.primary for trial, one in composed.items()}
    if len(set(by_arm.values())) > 1:
        said = ", ".join(f"{arm} by {metric} ({end})" for arm, (metric, end) in by_arm.items())
        raise ConfigError([
            f"`ablation.metric` must be given for arms whose objectives are judged by different metrics: {said}."
        ])  # fmt: skip
    metric, _ = next(iter(by_arm.values()))
    return metric


def differences(composed: dict[Trial, Composed], baseline: str) -> dict[str, list[str]]:
    """Arm → the hashed settings in which it differs from the baseline, seed and tag apart."""
    settings = {trial.arm: leaves(one.plan.config) for trial, one in composed.items()}
    other = settings[baseline]
    return {
        arm: [
            key
            for key in sorted(mine.keys() | other.keys())
            if is_hashed(key) and key not in ("seed", "run.tag") and mine.get(key) != other.get(key)
        ]
        for arm, mine in settings.items()
    }


def _relative(path: Path, root: str | None) -> str:
    return str(path.relative_to(root) if root and path.is_relative_to(root) else path)
