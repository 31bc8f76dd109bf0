"""Saves the run by steps and at the end; keeps the newest few and the best by validation loss."""

import shutil
import time
from typing import Any

import lightning.pytorch as pl

from minimind.parallel.collectives import gathered
from minimind.runs.folder import RunFolder
from minimind.training.callbacks.metrics import Metrics
from minimind.training.checkpoint import (
    optimizer_by_name,
    optimizer_by_number,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from minimind.training.config import TrainerConfig, is_due


class Checkpointing(pl.Callback):
    """Comes after `Metrics`: a step that validates is saved after its validation, with its figures."""

    def __init__(self, run: RunFolder, cfg: TrainerConfig, metrics: Metrics) -> None:
        self.run = run
        self.cfg = cfg
        self.metrics = metrics
        self.last_step = -1
        self.saved_step = -1
        self.random_states: list[dict[str, Any]] = []  # by rank
        self.loaded: dict[str, Any] | None = None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.last_step = trainer.global_step
        if trainer.global_rank < len(self.random_states):  # a rank more than before keeps its stream of this start
            restore_random_state(self.random_states[trainer.global_rank])

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if step == self.last_step:
            return
        self.last_step = step
        validates = is_due(step, self.cfg.validate_every_steps, self.cfg.max_steps)
        if not validates and is_due(step, self.cfg.checkpoint_every_steps, self.cfg.max_steps):
            self.save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        improved = self.metrics.latest["val/loss"] == self.metrics.best
        if improved or is_due(trainer.global_step, self.cfg.checkpoint_every_steps, self.cfg.max_steps):
            folder = self.save(trainer)
            if improved and trainer.is_global_zero:
                self.run.update_status(best_checkpoint=folder)
                self._retain()

    def save(self, trainer: pl.Trainer) -> str:
        """Saves now, between two optimizer steps; returns the checkpoint's name."""
        step = trainer.global_step
        if self.saved_step == step:
            return f"step_{step:08d}"
        self.saved_step = step
        start = time.perf_counter()
        folder = save_checkpoint(trainer, self.run)
        self.metrics.checkpoint_stall_s += time.perf_counter() - start
        if trainer.is_global_zero:
            self.run.update_status(step=trainer.global_step, tokens=self.metrics.tokens)
            self._retain()
        return folder.name

    def _retain(self) -> None:
        best = self.run.status.get("best_checkpoint")
        for folder in self.run.complete_checkpoints()[: -self.cfg.keep_checkpoints]:
            if folder.name != best:
                shutil.rmtree(folder)

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        optimizer_by_name(checkpoint)
        checkpoint["random_state"] = gathered(random_state())

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.random_states = checkpoint["random_state"]
        self.loaded = checkpoint

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """The optimizer is there only now; Lightning gives it its state from this same dictionary right after."""
        if self.loaded is not None:
            optimizer_by_number(self.loaded, trainer.optimizers[0])
            self.loaded = None
