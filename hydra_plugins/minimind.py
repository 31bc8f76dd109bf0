"""Hydra plugins: a launcher that runs the jobs of a multirun in a queue, and a sweeper for ablations."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from minimind.runs.states import Exit


class QueueLauncher(Launcher):
    def __init__(self, num_parallel: int | None) -> None:
        self.num_parallel = num_parallel

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.loader, self.master = hydra_context.config_loader, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from minimind.cli.train import JOB
        from minimind.sweep.compose import composer
        from minimind.sweep.launch import run_queue

        compose = composer(self.loader, self.master)
        codes = run_queue(job_overrides, compose, Path(self.master.hydra.sweep.dir), self.num_parallel, JOB)
        return [
            JobReturn(overrides=overrides, status=JobStatus.COMPLETED, _return_value=code)
            for overrides, code in zip(job_overrides, codes, strict=True)
        ]


class AblationSweeper(Sweeper):
    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task_function, self.master = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        from hydra.core.plugins import Plugins

        from minimind.sweep.compose import composer
        from minimind.sweep.run import prepare_sweep, run_sweep

        def launch(folder: Path, jobs: list[list[str]], sequential: bool) -> list[int]:
            launcher = Plugins.instance().instantiate_launcher(
                hydra_context=self.context, task_function=self.task_function,
                config=in_folder(self.master, folder, sequential),
            )  # fmt: skip
            return [exit_code(job) for job in launcher.launch(jobs, initial_job_idx=0)]

        planned = prepare_sweep(self.master, arguments, composer(self.context.config_loader, self.master))
        if code := run_sweep(planned, launch):
            raise SystemExit(code)  # Hydra discards return values


def exit_code(job: JobReturn) -> int:
    """The exit code of a job run by any launcher."""
    return int(job._return_value or Exit.FINISHED) if job.status is JobStatus.COMPLETED else Exit.FAILED


def in_folder(config: DictConfig, folder: Path, sequential: bool) -> DictConfig:
    """Set Hydra's sweep folder, where launchers keep their logs, to the given one.

    Raises:
        ConfigError: the jobs must run one at a time, but the launcher runs them in parallel.
    """
    from omegaconf import OmegaConf, read_write

    from minimind.utils.errors import ConfigError

    chosen = config.hydra.runtime.choices["hydra/launcher"]
    if sequential and chosen not in ("queue", "basic"):
        raise ConfigError(
            [f"`hydra/launcher` must be queue for a cost ablation, to run one job at a time, but is {chosen}."]
        )
    if sequential and chosen == "queue" and config.hydra.launcher.num_parallel not in (None, 1):
        raise ConfigError(["`hydra.launcher.num_parallel` must be 1 for a cost ablation."])
    with read_write(config), read_write(config.hydra):
        OmegaConf.update(config, "hydra.sweep.dir", str(folder))
        if sequential and chosen == "queue":
            OmegaConf.update(config, "hydra.launcher.num_parallel", 1)
    return config
