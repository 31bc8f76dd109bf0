"""A sweep from what was typed to its report."""

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from minimind.config.checks import check_numbers
from minimind.config.plan import is_finished, refuse_unknown_options, starts_afresh
from minimind.report.config import AblationConfig, Kind
from minimind.runs.links import refuse_links
from minimind.runs.states import Exit
from minimind.sweep.compose import Compose
from minimind.sweep.plan import SweepPlan, plan_sweep
from minimind.sweep.reuse import refuse_other_measurements
from minimind.sweep.trials import trials_of_ablation, trials_of_grid
from minimind.tracking.config import WandbSettings
from minimind.tracking.report_artifact import publish_report
from minimind.utils.errors import ConfigError, UserError
from minimind.utils.terminal import say

Launch = Callable[[Path, list[list[str]], bool], list[int]]  # folder, jobs, one at a time → exit codes


def prepare_sweep(master: DictConfig, arguments: Sequence[str], compose: Compose) -> SweepPlan:
    """Args:
        master: what Hydra composed of everything that has one value.

    Raises:
        ConfigError: with all that is wrong, before anything is written.
    """
    refuse_unknown_options(master.hydra)
    choices: Any = master.hydra.runtime.choices
    of_hydra = [override for override in master.hydra.overrides.hydra if not override.startswith("hydra.mode=")]
    command = shlex.join(["python", "train.py", "-m", *arguments, *of_hydra])
    ablation = ablation_of(master)
    if ablation is None:
        name = choices.get("experiment") or "sweep"
        return plan_sweep(trials_of_grid(arguments, master.seed), compose, None, name, command)
    trials = trials_of_ablation(ablation, arguments)
    return plan_sweep(trials, compose, ablation, choices.ablation, command)


def ablation_of(master: DictConfig) -> AblationConfig | None:
    if master.ablation is None:
        return None
    check_numbers(master.ablation, "ablation")
    try:
        ablation = OmegaConf.to_object(master.ablation)
    except MissingMandatoryValue as error:
        raise ConfigError([f"The ablation must say everything, but: {str(error).splitlines()[0]}"]) from None
    assert isinstance(ablation, AblationConfig)
    return ablation


def run_sweep(planned: SweepPlan, launch: Launch) -> int:
    """The exit code: 0 if every run is finished, 75 if some were stopped, 1 if some failed."""
    sweep, folder = planned.sweep, planned.folder
    due = [job for job in planned.jobs if starts_afresh(job[1].plan.cfg) or not is_finished(job[1].plan)]
    refuse_other_measurements([job[1].plan for job in planned.jobs if job not in due], sweep.kind)
    refuse_links(folder)
    sweep.save(folder)
    say(
        f"{folder.name}: {len(sweep.arms)} arms, {len(planned.jobs)} runs, of which "
        f"{len(planned.jobs) - len(due)} are finished already.",
        file=sys.stderr,
    )
    jobs = [_in_group(overrides, one.plan.config, folder) for overrides, one in due]
    codes = launch(folder, jobs, sweep.kind == Kind.cost.value) if jobs else []
    written = report(folder)
    if written and (node := planned.jobs[0][1].plan.config["logger"].get("wandb")):
        publish(folder, node)
    return _exit_code(codes) if written else Exit.FAILED


def report(folder: Path) -> bool:
    """Writes and shows it; whether it could be written."""
    from minimind.report.terminal import print_report
    from minimind.report.write import write_report

    try:
        print_report(write_report(folder))
    except UserError as error:
        say(f"\nNo report: {error}", file=sys.stderr)
        return False
    return True


def publish(folder: Path, wandb: dict[str, Any]) -> None:
    """W&B gets the report as well; whatever comes of it, the sweep is done."""
    settings = WandbSettings(**{field.name: wandb[field.name] for field in fields(WandbSettings)})
    if problem := publish_report(folder, settings):
        say(f"W&B has no report of this sweep: {problem}", file=sys.stderr)


def _exit_code(codes: Sequence[int]) -> int:
    if any(code not in (Exit.FINISHED, Exit.PREEMPTED) for code in codes):
        return Exit.FAILED
    return Exit.PREEMPTED if Exit.PREEMPTED in codes else Exit.FINISHED


def _in_group(overrides: Sequence[str], config: dict[str, Any], folder: Path) -> list[str]:
    """At W&B the runs of a sweep are a group, unless they have been given one."""
    wandb = config["logger"].get("wandb")
    named = wandb is None or any(override.startswith("logger.wandb.group=") for override in overrides)
    return list(overrides) if named else [*overrides, f"logger.wandb.group={folder.name}"]
