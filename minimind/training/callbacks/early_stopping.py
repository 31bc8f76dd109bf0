"""Finishes the run early when the primary metric stops improving."""

import math
from typing import Any

import lightning.pytorch as pl

from minimind.training.callbacks.run_callback import RunCallback
from minimind.utils.errors import ConfigError


class EarlyStopping(RunCallback):
    """Stops after `patience` validations without an improvement of more than `min_delta`. Must follow `Metrics`.

    Its state is in the checkpoint, so a resumed run stops at the same step.
    """

    def __init__(self, patience: int, min_delta: float, every_steps: int) -> None:
        if patience < 1:
            raise ConfigError([f"`callbacks.early_stopping.patience` must be at least 1, but is {patience}."])
        if min_delta < 0:
            raise ConfigError([f"`callbacks.early_stopping.min_delta` must be at least 0, but is {min_delta}."])
        self.patience = patience
        self.min_delta = min_delta
        self.every_steps = every_steps
        self.best: float | None = None
        self.worse = 0  # validations since the best, of those at multiples of `every_steps`

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.global_step % self.every_steps:
            return
        primary = self.parts.best
        value = self.parts.writer.latest.get(primary.metric, math.nan)
        if primary.is_better(value, self.best, self.min_delta):
            self.best, self.worse = value, 0
        else:
            self.worse += 1
        if self.worse >= self.patience and trainer.global_step < trainer.max_steps:
            crossed = "fallen below" if primary.mode == "min" else "risen above"
            best = "a finite value" if self.best is None else f"{self.best:.4f}"
            self.parts.stopped_early = f"{primary.metric} has not {crossed} {best} in {self.worse} validations"
            assert self.parts.save is not None
            self.parts.save(trainer)
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "worse": self.worse}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.worse = state["best"], state["worse"]
