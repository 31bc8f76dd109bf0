"""Ends the run when validation has not got better for a while; the run is then finished, with the reason."""

from typing import Any

import lightning.pytorch as pl

from minimind.training.callbacks.checkpointing import Checkpointing
from minimind.training.callbacks.each_step import RunCallback
from minimind.training.callbacks.metrics import metrics_of
from minimind.utils.errors import ConfigError


class EarlyStopping(RunCallback):
    """Comes after `Metrics`. What it has seen is in the checkpoint, so a resumed run stops where a whole one does."""

    def __init__(self, patience: int, min_delta: float, every_steps: int) -> None:
        if patience < 1:
            raise ConfigError([f"`callbacks.early_stopping.patience` must be at least 1, but is {patience}."])
        if min_delta < 0:
            raise ConfigError([f"`callbacks.early_stopping.min_delta` must be at least 0, but is {min_delta}."])
        self.patience = patience
        self.min_delta = min_delta
        self.every_steps = every_steps
        self.best: float | None = None
        self.worse = 0  # validations since the best, of those that count
        self.reason: str | None = None

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.global_step % self.every_steps:
            return
        loss = metrics_of(trainer).latest["val/loss"]
        if self.best is None or loss < self.best - self.min_delta:
            self.best, self.worse = loss, 0
        else:
            self.worse += 1
        if self.worse >= self.patience and trainer.global_step < trainer.max_steps:
            self.reason = f"val/loss has not fallen below {self.best:.4f} in {self.worse} validations"
            (checkpointing,) = (c for c in trainer.callbacks if isinstance(c, Checkpointing))  # type: ignore[attr-defined]
            checkpointing.save(trainer)
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "worse": self.worse}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.worse = state["best"], state["worse"]
