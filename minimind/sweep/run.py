"""Runs a sweep, from the command line to its report."""

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from minimind.config.checks import check_numbers
from minimind.config.plan import Plan, is_finished, plain, refuse_unknown_options, starts_afresh
from minimind.config.schema import load_stored
from minimind.report.config import AblationConfig, Kind
from minimind.runs.identity import leaves
from minimind.runs.links import refuse_links
from minimind.runs.states import Exit
from minimind.sweep.compose import Compose
from minimind.sweep.plan import SweepPlan, plan_sweep
from minimind.sweep.trials import trials_of_ablation, trials_of_grid
from minimind.tracking.config import WandbSettings
from minimind.tracking.report_artifact import publish_report
from minimind.utils.errors import ConfigError, UserError
from minimind.utils.terminal import say

# Settings that change what is measured, but not a run's identity.
MEASUREMENT_KEYS = ("evaluation.context_factors", "evaluation.yarn", "evaluation.decode_tokens")
COST_KEYS = ("trainer.num_threads", "trainer.micro_batch", "trainer.accelerator", "trainer.devices",
             "trainer.log_every_steps")  # fmt: skip
Launch = Callable[[Path, list[list[str]], bool], list[int]]  # (folder, jobs, one at a time) → exit codes


def prepare_sweep(master: DictConfig, arguments: Sequence[str], compose: Compose) -> SweepPlan:
    """Args:
        master: Hydra's composition without the swept values.

    Raises:
        ConfigError: with all problems, before anything is written.
    """
    refuse_unknown_options(master.hydra)
    choices: Any = master.hydra.runtime.choices
    hydra_overrides = [override for override in master.hydra.overrides.hydra if not override.startswith("hydra.mode=")]
    command = shlex.join(["python", "train.py", "-m", *arguments, *hydra_overrides])
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
        raise ConfigError([f"The ablation is incomplete: {str(error).splitlines()[0]}"]) from None
    assert isinstance(ablation, AblationConfig)
    return ablation


def run_sweep(planned: SweepPlan, launch: Launch) -> int:
    """Returns the exit code: 0 if every run has finished, 75 if some were stopped, 1 if some failed."""
    sweep, folder = planned.sweep, planned.folder
    pending = [job for job in planned.jobs if starts_afresh(job[1].plan.cfg) or not is_finished(job[1].plan)]
    refuse_other_measurements([job[1].plan for job in planned.jobs if job not in pending], sweep.kind)
    refuse_links(folder)
    sweep.save(folder)
    say(
        f"{folder.name}: {len(sweep.arms)} arms, {len(planned.jobs)} runs, "
        f"{len(planned.jobs) - len(pending)} of them already finished.",
        file=sys.stderr,
    )
    jobs = [_with_wandb_group(overrides, one.plan.config, folder) for overrides, one in pending]
    codes = launch(folder, jobs, sweep.kind == Kind.cost.value) if jobs else []
    written = report(folder)
    if written and (node := planned.jobs[0][1].plan.config["logger"].get("wandb")):
        publish(folder, node)
    return _exit_code(codes) if written else Exit.FAILED


def refuse_other_measurements(finished: Sequence[Plan], kind: str) -> None:
    """Checks that finished runs, which are reused, were measured in the same way.

    Raises:
        ConfigError: one was not; names run and setting.
    """
    keys = (*MEASUREMENT_KEYS, *COST_KEYS) if kind == Kind.cost.value else MEASUREMENT_KEYS
    found = []
    for planned in finished:
        wanted, stored = leaves(planned.config), leaves(plain(load_stored(planned.folder.config)))
        for key in keys:
            if wanted.get(key) != stored.get(key):
                found.append(
                    f"`{key}` must be {stored.get(key)}, as when {planned.folder.path.name} was measured, but is "
                    f"{wanted.get(key)}; use run.fresh=true to rerun such runs, or run.tag=… for separate ones."
                )
    if found:
        raise ConfigError(found)


def report(folder: Path) -> bool:
    """Writes and prints the report; returns whether it could be written."""
    from minimind.report.terminal import print_report
    from minimind.report.write import write_report

    try:
        print_report(write_report(folder))
    except UserError as error:
        say(f"\nNo report: {error}", file=sys.stderr)
        return False
    return True


def publish(folder: Path, wandb: dict[str, Any]) -> None:
    """Uploads the report to W&B; a failure does not fail the sweep."""
    settings = WandbSettings(**{field.name: wandb[field.name] for field in fields(WandbSettings)})
    if problem := publish_report(folder, settings):
        say(f"The report was not uploaded to W&B: {problem}", file=sys.stderr)


def _exit_code(codes: Sequence[int]) -> int:
    if any(code not in (Exit.FINISHED, Exit.PREEMPTED) for code in codes):
        return Exit.FAILED
    return Exit.PREEMPTED if Exit.PREEMPTED in codes else Exit.FINISHED


def _with_wandb_group(overrides: Sequence[str], config: dict[str, Any], folder: Path) -> list[str]:
    """Groups the runs of a sweep in W&B, unless a group is given."""
    wandb = config["logger"].get("wandb")
    has_group = wandb is None or any(override.startswith("logger.wandb.group=") for override in overrides)
    return list(overrides) if has_group else [*overrides, f"logger.wandb.group={folder.name}"]
