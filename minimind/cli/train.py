"""`train.py`: composes the configuration from the command line, and chooses the process that runs it."""

import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from minimind.cli.app import guarded, run_app, without_plus
from minimind.cli.help import train_help
from minimind.cli.processes import WORKER, run, run_rank
from minimind.parallel.environment import joined_tree
from minimind.runs.states import Exit
from minimind.utils.child import Children, end_with_parent, python_module, signals_to
from minimind.utils.user_code import take_option

if TYPE_CHECKING:
    from omegaconf import DictConfig

FROZEN = "--frozen"
JOB = python_module("minimind.cli.train", FROZEN)  # followed by a file with the composed settings of one run
_jobs = Children()  # of a multirun; no new job starts after a signal to stop


def main() -> int:
    joined_tree()  # sets torchrun's environment variables in processes started by srun
    if sys.argv[1:2] == [FROZEN]:
        end_with_parent(signal.SIGTERM)  # stops with a checkpoint
        return guarded(lambda: run(_frozen(Path(sys.argv[2]))))
    if sys.argv[1:2] == [WORKER]:
        return run_rank(Path(sys.argv[2]))
    return guarded(_start)


def _start() -> int:
    sys.argv[1:] = without_plus(take_option(sys.argv[1:]), "run.resume")
    return run_app(_composition(sys.argv[1:]), _task, train_help)


def _composition(arguments: list[str]) -> str:
    """Hydra's primary config: conf/train.yaml, or with `run.resume=<folder>` the stored configuration of that run."""
    named = [argument.partition("=")[2].strip("'\"") for argument in arguments if argument.startswith("run.resume=")]
    multirun = {"-m", "--multirun"} & set(arguments)  # its jobs reject run.resume=<folder>
    if not named or multirun:
        return "train"
    from minimind.config.plan import named_folder
    from minimind.config.resume import NAME, offer_stored

    folder = named_folder(named[-1])
    if folder is None:
        return "train"
    offer_stored(folder, arguments)
    return NAME


def _task(composed: "DictConfig") -> int:
    """Runs in this process or, in a multirun, in a separate one per job, so that jobs cannot affect each other."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from minimind.config.plan import complete
    from minimind.utils.errors import ConfigError

    hydra_config = HydraConfig.get()
    if composed.ablation is not None:
        raise ConfigError(["An ablation consists of several runs; start it with python train.py -m ablation=…"])
    complete(composed, hydra_config)
    if hydra_config.mode is RunMode.RUN:
        return run(composed)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(OmegaConf.to_yaml(composed, resolve=True))
        file.flush()
        return run_job([*JOB, file.name])


def run_job(command: list[str]) -> int:
    """Runs one job of a multirun, passes signals on to it, and returns its exit code."""
    if _jobs.received:
        return Exit.PREEMPTED
    with signals_to(_jobs.pass_on):
        code = _jobs.start(command).wait()
    return code if code >= 0 else Exit.FAILED  # negative: killed by a signal


def _frozen(file: Path) -> "DictConfig":
    from minimind.config.schema import load_stored

    return load_stored(file)


if __name__ == "__main__":
    sys.exit(main())
