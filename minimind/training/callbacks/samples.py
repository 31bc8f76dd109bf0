"""Generates text samples during training, for samples.jsonl and the loggers that can show text."""

import time
from typing import Any

import lightning.pytorch as pl

from minimind.runs.folder import RunFolder
from minimind.runs.metrics_file import append_row
from minimind.tracking.run_logger import RunLogger
from minimind.training.callbacks.run_callback import StepCallback
from minimind.training.module import TrainingModule
from minimind.utils.errors import ConfigError


class Samples(StepCallback):
    """Generates samples every `every_steps` steps, except after the last one: every run ends with samples anyway.

    Sampling does not count as training time.
    """

    def __init__(self, every_steps: int) -> None:
        if every_steps < 1:
            raise ConfigError([f"`callbacks.samples.every_steps` must be at least 1, but is {every_steps}."])
        self.every_steps = every_steps

    def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        if step % self.every_steps == 0 and step < trainer.max_steps:
            assert isinstance(module, TrainingModule)
            start = time.perf_counter()
            samples = self.parts.sampler(module.model, step)  # on every rank: a sharded model needs all of them
            if trainer.is_global_zero:
                log_samples(self.parts.run, trainer.loggers, samples)
            self.parts.clock.pause(time.perf_counter() - start)


def log_samples(run: RunFolder, loggers: list[Any], samples: list[dict[str, Any]]) -> None:
    for sample in samples:
        append_row(run.samples, sample)
    for logger in loggers:
        if isinstance(logger, RunLogger) and samples:
            logger.log_samples(samples, samples[0]["step"])
