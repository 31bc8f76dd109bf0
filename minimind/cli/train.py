"""`train.py`: from what was typed to a composed configuration, and in which process it is then run."""

import hashlib
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minimind.cli.app import guarded, run_app
from minimind.cli.help import train_help
from minimind.cli.job import run_job
from minimind.cli.processes import WORKER, run, work
from minimind.parallel.environment import joined_tree

if TYPE_CHECKING:
    from omegaconf import DictConfig

FROZEN = "--frozen"


def main() -> int:
    joined_tree()  # from here on srun's processes know their rank by torchrun's names
    if sys.argv[1:2] == [FROZEN]:
        return guarded(lambda: run(_frozen(Path(sys.argv[2]))))
    if sys.argv[1:2] == [WORKER]:
        return work(Path(sys.argv[2]))
    return run_app("train", _task, train_help)


def _task(composed: "DictConfig") -> int:
    """In a multirun each job is a process of its own: nothing leaks between jobs, and one failure ends one job."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from minimind.cli.admission import named_folder
    from minimind.utils.paths import default_root

    hydra_config = HydraConfig.get()
    choices: Any = hydra_config.runtime.choices
    composed.run.name = composed.run.name or f"{choices.model}-{choices.data}"
    composed.paths.root = composed.paths.root or str(default_root())
    overrides = list(hydra_config.overrides.task)
    if named := named_folder(composed.run.resume):
        composed = _stored(named, overrides)
    composed.run.command = shlex.join(["python", "train.py", *overrides])
    if "wandb" in composed.logger and not composed.logger.wandb.group:
        composed.logger.wandb.group = _group(choices.get("experiment"), hydra_config.mode is RunMode.MULTIRUN)
    if hydra_config.mode is RunMode.RUN:
        return run(composed)
    from minimind.config.checks import to_config
    from minimind.utils.errors import ConfigError

    if joined_tree():
        raise ConfigError(["A multirun must not be started by torchrun or srun: each job starts its own processes."])
    to_config(composed)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(OmegaConf.to_yaml(composed, resolve=True))
        file.flush()
        return run_job([sys.executable, "-m", "minimind.cli.train", FROZEN, file.name])


def _group(experiment: str | None, multirun: bool) -> str | None:
    """What runs that belong together share at W&B: the experiment, and in a multirun the command line of it all."""
    names = [experiment] if experiment else []
    if multirun:
        names.append(hashlib.sha256("\0".join(sys.argv[1:]).encode()).hexdigest()[:8])
    return "-".join(names if experiment or not multirun else ["multirun", *names]) or None


def _frozen(file: Path) -> "DictConfig":
    from minimind.config.schema import load_stored

    return load_stored(file)


def _stored(folder: Path, overrides: list[str]) -> "DictConfig":
    """The configuration of an earlier run with what was typed now: how `run.resume=<folder>` goes on longer."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    from minimind.config.schema import load_stored
    from minimind.utils.errors import ConfigError

    cfg = load_stored(folder / "config.yaml")
    for override in OverridesParser.create().parse_overrides(overrides):
        key = "parallel.kind" if override.key_or_group == "parallel" else override.key_or_group
        if "." not in key and key not in ("seed",):
            raise ConfigError([f"`{key}=` must not be given with run.resume={folder.name}: the run has its own."])
        OmegaConf.update(cfg, key, override.value())
    cfg.run.resume = str(folder)
    return cfg


if __name__ == "__main__":
    sys.exit(main())
