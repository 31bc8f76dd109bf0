"""Plans a sweep before anything starts: composes and checks every job, deduplicates runs, and sets up sweep.json."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minimind.config.schema import TrainConfig
from minimind.report.config import AblationConfig, Budget, Kind
from minimind.report.sweep_file import Sweep, SweepJob
from minimind.runs.identity import is_hashed, leaves
from minimind.sweep.compose import Compose, Composed
from minimind.sweep.trials import Trial, key_of, merged, parse
from minimind.utils.errors import ConfigError

PER_JOB = ("run.command",)  # may differ between jobs with the same settings


@dataclass(frozen=True)
class SweepPlan:
    sweep: Sweep
    folder: Path
    jobs: list[tuple[tuple[str, ...], Composed]]  # overrides and composed settings; each run once


def plan_sweep(
    trials: Sequence[Trial], compose: Compose, ablation: AblationConfig | None, name: str, command: str
) -> SweepPlan:
    """Raises: ConfigError, with the problems of all jobs."""
    composed = compose_all(trials, compose)
    if ablation is not None and ablation.budget is not Budget.steps:
        composed = compose_all([with_budget(trial, composed, ablation) for trial in trials], compose)
    unique = deduplicated(composed)
    paths = next(iter(composed.values())).plan.cfg.paths
    hashes = sorted(one.plan.folder.path.name[-8:] for one in unique.values())
    identity = hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:8]
    jobs = [
        SweepJob(trial.arm, trial.replicate, _relative(one.plan.folder.path, paths.root), list(trial.overrides))
        for trial, one in composed.items()
    ]
    question = ablation_fields(ablation, composed) if ablation is not None else grid_fields(trials, composed)
    sweep = Sweep(
        name=name, command=command, jobs=jobs, differs=differences(composed, question["baseline"]), **question
    )
    overrides = {str(one.plan.folder.path): trial.overrides for trial, one in reversed(composed.items())}
    folder = Path(paths.sweeps) / f"{name}-{identity}"
    return SweepPlan(sweep, folder, [(overrides[run], one) for run, one in unique.items()])


def compose_all(trials: Sequence[Trial], compose: Compose) -> dict[Trial, Composed]:
    """Raises: ConfigError, with each problem once, and the arms that have it."""
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


def with_budget(trial: Trial, composed: dict[Trial, Composed], ablation: AblationConfig) -> Trial:
    if any(key_of(override) == "trainer.max_steps" for override in parse(ablation.arms[trial.arm])):
        raise ConfigError([
            f"arm {trial.arm} must not set `trainer.max_steps`: `ablation.budget: {ablation.budget.value}` sets it."
        ])  # fmt: skip
    configs = {(one.arm, one.replicate): c.plan.cfg for one, c in composed.items()}
    baseline = configs[ablation.baseline, trial.replicate]
    steps = max_steps(ablation.budget, baseline, configs[trial.arm, trial.replicate])
    return Trial(trial.arm, trial.replicate, merged(trial.overrides, [f"trainer.max_steps={steps}"]))


def max_steps(budget: Budget, baseline: TrainConfig, arm: TrainConfig) -> int:
    """The number of steps that gives an arm the baseline's budget.

    Raises:
        ConfigError: the baseline's number of steps depends on its data.
    """
    if baseline.trainer.max_steps is None:
        raise ConfigError([
            f"`trainer.max_steps` must be set for `ablation.budget: {budget.value}`, but trainer.epochs is."
        ])  # fmt: skip
    return max(1, round(baseline.trainer.max_steps * _per_step(budget, baseline) / _per_step(budget, arm)))


def _per_step(budget: Budget, cfg: TrainConfig) -> float:
    if budget is Budget.steps:
        return 1
    tokens = cfg.trainer.batch_tokens
    return tokens if budget is Budget.tokens else tokens * cfg.model.flops_per_token(cfg.data.sequence_length)


def deduplicated(composed: dict[Trial, Composed]) -> dict[str, Composed]:
    """Maps each run folder to its job; jobs with the same identity share a run.

    Raises:
        ConfigError: they differ in settings that are not part of the identity.
    """
    unique: dict[str, Composed] = {}
    found = []
    for trial, one in composed.items():
        other = unique.setdefault(str(one.plan.folder.path), one)
        mine, theirs = leaves(one.plan.config), leaves(other.plan.config)
        keys = [k for k in mine.keys() | theirs.keys() if k not in PER_JOB and mine.get(k) != theirs.get(k)]
        if keys:
            found.append(
                f"arm {trial.arm} is the same run as another, except for {', '.join(sorted(keys))}, which do not make "
                "it a different run: make them equal, or give one of them run.tag=…"
            )
    if found:
        raise ConfigError(found)
    return unique


def ablation_fields(ablation: AblationConfig, composed: dict[Trial, Composed]) -> dict[str, Any]:
    """The fields of `Sweep` that define an ablation's comparison."""
    metric = ablation.metric or common_primary(composed)
    return {
        "kind": ablation.kind.value, "baseline": ablation.baseline, "metric": metric, "arms": ablation.arms,
        "question": ablation.question, "claim": ablation.claim, "margin": ablation.margin,
        "budget": ablation.budget.value, "columns": ablation.columns,
    }  # fmt: skip


def grid_fields(trials: Sequence[Trial], composed: dict[Trial, Composed]) -> dict[str, Any]:
    """Likewise for a grid: the first arm is the baseline, and its objective's primary metric is the metric."""
    arms = {trial.arm: list(trial.overrides) for trial in trials}
    metric, _ = composed[trials[0]].plan.cfg.objective.primary
    return {"kind": Kind.quality.value, "baseline": trials[0].arm, "metric": metric, "arms": arms}


def common_primary(composed: dict[Trial, Composed]) -> str:
    """The primary metric of every arm's objective.

    Raises:
        ConfigError: the arms have different ones.
    """
    by_arm = {trial.arm: one.plan.cfg.objective.primary for trial, one in composed.items()}
    if len(set(by_arm.values())) > 1:
        listed = ", ".join(f"{arm}: {metric} ({end})" for arm, (metric, end) in by_arm.items())
        raise ConfigError([
            f"`ablation.metric` must be set, as the objectives of the arms have different primary metrics ({listed})."
        ])  # fmt: skip
    metric, _ = next(iter(by_arm.values()))
    return metric


def differences(composed: dict[Trial, Composed], baseline: str) -> dict[str, list[str]]:
    """Maps each arm to the hashed settings, except seed and tag, in which it differs from the baseline."""
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
