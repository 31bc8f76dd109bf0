"""What a run is, and whether there is anything to do: before torch is imported, and before anything is written."""

import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from minimind.cli.app import FINISHED
from minimind.runs.folder import FINISHED as STATE_FINISHED
from minimind.runs.folder import RunFolder
from minimind.utils.errors import ConfigError, UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from minimind.config.schema import TrainConfig


class Plan(NamedTuple):
    cfg: "TrainConfig"
    config: dict[str, Any]  # the same, resolved, in plain types
    folder: RunFolder


def plan(composed: "DictConfig") -> Plan:
    """Raises: ConfigError, with every broken rule."""
    from omegaconf import OmegaConf

    from minimind.config.checks import to_config
    from minimind.parallel.slurm import job_id
    from minimind.runs.identity import run_hash

    cfg = to_config(composed)
    if cfg.run.requeue and job_id() is None:
        raise ConfigError(["`run.requeue` must be false outside SLURM: there is no SLURM_JOB_ID to requeue."])
    config = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True, enum_to_str=True))
    named = named_folder(cfg.run.resume)
    return Plan(cfg, config, RunFolder(named or Path(cfg.paths.runs) / f"{cfg.run.name}-{run_hash(config)}"))


def named_folder(resume: str) -> Path | None:
    """The run folder that `run.resume` names, if it is none of the words."""
    from minimind.utils.paths import find_existing

    return None if resume in ("auto", "must", "never") else find_existing(resume, "run.resume (or a run folder)")


def admit(planned: Plan) -> int | None:
    """Sees to `run.fresh` and `run.resume`; an exit code if there is nothing to do."""
    cfg, config, folder = planned
    if cfg.run.fresh and folder.path.exists() and not restarted():
        print(f"run.fresh: the old folder is now {folder.move_aside().name}.", file=sys.stderr)
    status = folder.status
    if status and cfg.run.resume == "never":
        raise UserError(f"{folder.path} must not exist with run.resume=never; use run.fresh=true or run.tag=….")
    if not status and cfg.run.resume == "must":
        raise UserError(f"{folder.path} must exist with run.resume=must, but does not.")
    if status.get("state") == STATE_FINISHED and (
        status["step"] >= _max_steps(cfg, status) or _as_it_was_started(config, folder)
    ):
        return _show_finished(folder)
    return None


def _as_it_was_started(config: dict[str, Any], folder: RunFolder) -> bool:
    """Then a finished run with fewer steps than it might have was stopped early, and is not to go on."""
    from omegaconf import OmegaConf

    from minimind.config.schema import load_stored
    from minimind.runs.identity import run_hash

    stored = OmegaConf.to_container(load_stored(folder.config), resolve=True, enum_to_str=True)
    return run_hash(config) == run_hash(cast(dict[str, Any], stored))


def _max_steps(cfg: "TrainConfig", status: dict[str, Any]) -> float:
    """Where the run ends; of other epochs than it was started with that is known only when the data are there."""
    if cfg.trainer.max_steps is not None:
        return cfg.trainer.max_steps
    auto = status["auto"]
    return auto["max_steps"] if auto.get("epochs") == cfg.trainer.epochs else math.inf


def restarted() -> bool:
    """Whether a scheduler starts this command again: then `run.fresh` has been done."""
    return any(int(os.environ.get(name, "0")) > 0 for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))


def _show_finished(folder: RunFolder) -> int:
    from minimind.report.summary import print_summary
    from minimind.runs.metrics_file import read_rows
    from minimind.runs.source import source_hash
    from minimind.utils.files import read_json

    print("This run is finished. run.fresh=true does it again, run.tag=NAME makes another of the same settings,")
    print(f"run.resume={folder.path} trainer.max_steps=N schedule.horizon_steps=N goes on longer")
    print("(the learning rate has ended where the schedule did, unless its horizon moves too).")
    if folder.status.get("source_hash") != source_hash():
        print("The source code has changed since.")
    if reason := folder.status.get("reason"):
        print(f"It was stopped early: {reason}.")
    summary = read_json(folder.summary)
    samples = [sample for sample in read_rows(folder.samples) if sample.get("step", summary["step"]) == summary["step"]]
    print_summary(summary, samples, folder.path)
    return FINISHED
