"""`train.py`: from what was typed to a composed configuration, and in which process it is then run."""

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from minimind.cli.app import guarded, run_app
from minimind.cli.help import train_help
from minimind.cli.job import run_job, stop_with
from minimind.cli.processes import WORKER, run, work
from minimind.parallel.environment import joined_tree
from minimind.runs.stop import PARENT

if TYPE_CHECKING:
    from omegaconf import DictConfig

FROZEN = "--frozen"
JOB = [sys.executable, "-m", "minimind.cli.train", FROZEN]  # and a file: the composed settings of one run


def main() -> int:
    joined_tree()  # from here on srun's processes know their rank by torchrun's names
    if sys.argv[1:2] == [FROZEN]:
        if parent := os.environ.get(PARENT):
            stop_with(int(parent))
        return guarded(lambda: run(_frozen(Path(sys.argv[2]))))
    if sys.argv[1:2] == [WORKER]:
        return work(Path(sys.argv[2]))
    return run_app("train", _task, train_help)


def _task(composed: "DictConfig") -> int:
    """In a multirun each job is a process of its own: nothing leaks between jobs, and one failure ends one job."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from minimind.config.plan import complete, named_folder
    from minimind.utils.errors import ConfigError

    hydra_config = HydraConfig.get()
    if composed.ablation is not None:
        raise ConfigError(["An ablation is many runs: type python train.py -m ablation=…"])
    complete(composed, hydra_config)
    if hydra_config.mode is RunMode.RUN:
        if named := named_folder(composed.run.resume):
            composed = _stored(named, list(hydra_config.overrides.task), composed.run.command)
        return run(composed)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(OmegaConf.to_yaml(composed, resolve=True))
        file.flush()
        return run_job([*JOB, file.name])


def _frozen(file: Path) -> "DictConfig":
    from minimind.config.schema import load_stored

    return load_stored(file)


def _stored(folder: Path, overrides: list[str], command: str) -> "DictConfig":
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
    cfg.run.resume, cfg.run.command = str(folder), command
    return cfg


if __name__ == "__main__":
    sys.exit(main())
