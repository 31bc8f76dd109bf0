"""Determines which run a configuration describes and whether it is finished, without writing or importing torch."""

import math
import os
import shlex
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, cast

from omegaconf import DictConfig, OmegaConf

from minimind.config.checks import to_config
from minimind.config.schema import TrainConfig, added_leaves, load_stored
from minimind.parallel.environment import job_id
from minimind.runs.folder import RunFolder
from minimind.runs.identity import run_hash
from minimind.runs.states import RunState
from minimind.utils.errors import ConfigError, suggestion
from minimind.utils.paths import default_root, find_existing
from minimind.utils.user_code import OPTION, allowed

OPTIONAL_GROUPS = ("ablation", "debug", "experiment")


class Plan(NamedTuple):
    cfg: TrainConfig
    config: dict[str, Any]  # the same as resolved plain types, which are hashed and stored
    folder: RunFolder


def complete(composed: DictConfig, hydra_node: Any) -> None:
    """Fill in settings that depend on Hydra's choices: the run's name, root folder, command line and W&B group."""
    refuse_unknown_options(hydra_node)
    choices = hydra_node.runtime.choices
    overrides = list(hydra_node.overrides.task)
    if composed.run.name is None:
        composed.run.name = f"{choices.model}-{choices.data}".replace("/", "-")  # an option may be in a folder
    composed.paths.root = composed.paths.root or str(default_root())
    # An existing tokenizer has its own, so a new run's identity does not depend on these; a resumed run keeps its own.
    if composed.tokenizer.path and named_folder(composed.run.get("resume", "auto")) is None:
        composed.tokenizer.reserved, composed.tokenizer.split_digits = [], False
    modules = [f"{OPTION}={module}" for module in allowed()]
    composed.run.command = shlex.join(["python", "train.py", *modules, *overrides])
    if "wandb" in composed.logger and not composed.logger.wandb.group:
        composed.logger.wandb.group = choices.get("experiment")


def refuse_unknown_options(hydra_node: Any) -> None:
    """Check the options of optional groups: Hydra ignores those that it does not find.

    Raises:
        ConfigError: an option does not exist.
    """
    folders = [Path(source.path) for source in hydra_node.runtime.config_sources if source.schema == "file"]
    found = []
    for group in OPTIONAL_GROUPS:
        option = hydra_node.runtime.choices.get(group)
        known = [path.stem for folder in folders for path in (folder / group).glob("*.yaml")]
        if option is not None and option not in known:
            found.append(f"There is no {group} `{option}`; {suggestion(option, known)}")
    if found:
        raise ConfigError(found)


def plan(composed: DictConfig) -> Plan:
    """Check the composed settings and find the folder of their run.

    Raises:
        ConfigError: lists every broken rule.
    """
    cfg = to_config(composed)
    if cfg.run.requeue and job_id() is None:
        raise ConfigError(["`run.requeue` must be false outside SLURM: there is no SLURM_JOB_ID to requeue."])
    config = plain(composed)
    named = named_folder(cfg.run.resume)
    return Plan(cfg, config, RunFolder(named or Path(cfg.paths.runs) / f"{cfg.run.name}-{run_hash(config)}"))


def plain(composed: DictConfig) -> dict[str, Any]:
    """The resolved settings as plain types, which are hashed and stored.

    A setting that was added to the schema later is left out while it has the default with which it was introduced, so
    that existing runs keep their hash; `load_stored` adds it back.
    """
    config = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True, enum_to_str=True))
    for leaf, default in added_leaves(config).items():
        _leave_out(config, leaf.split("."), default.name if isinstance(default, Enum) else default)
    return config


def _leave_out(config: dict[str, Any], keys: Sequence[str], default: Any) -> None:
    """Remove a setting if it has this default, and its group if that is then empty."""
    key, *inner = keys
    if inner and isinstance(config.get(key), dict):
        _leave_out(config[key], inner, default)
        if not config[key]:
            del config[key]
    elif not inner and key in config and config[key] == default:
        del config[key]


def named_folder(resume: str) -> Path | None:
    """The run folder that `run.resume` names; None for the keywords auto, must and never."""
    return None if resume in ("auto", "must", "never") else find_existing(resume, "run.resume (or a run folder)")


def is_finished(planned: Plan) -> bool:
    """Whether the run has taken all its steps, or was stopped early with the same settings.

    Raises:
        DamagedFile: its status cannot be read.
    """
    planned.folder.check_status()
    status = planned.folder.status
    return (
        status.get("state") == RunState.FINISHED
        and planned.folder.summary.is_file()
        and (status["step"] >= _max_steps(planned.cfg, status) or _has_same_settings(planned))
    )


def _has_same_settings(planned: Plan) -> bool:
    """Whether the stored settings are the same: a finished run with too few steps was then stopped early."""
    return run_hash(planned.config) == run_hash(plain(load_stored(planned.folder.config)))


def _max_steps(cfg: TrainConfig, status: dict[str, Any]) -> float:
    """The run's last step; infinite if `epochs` has changed, as the number is known only once the data is prepared."""
    if cfg.trainer.max_steps is not None:
        return cfg.trainer.max_steps
    auto = status.get("auto", {})  # an imported model has none
    return auto["max_steps"] if auto.get("epochs") == cfg.trainer.epochs else math.inf


def starts_afresh(cfg: TrainConfig) -> bool:
    """Whether to apply `run.fresh`: not if a scheduler restarted this command, which has then already applied it."""
    restarts = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
    return cfg.run.fresh and not any(int(os.environ.get(name, "0")) > 0 for name in restarts)
