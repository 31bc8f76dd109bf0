"""Saves the run by steps, by minutes, when the primary metric was never better, and at the end."""

import sys
import time
from typing import Any

import lightning.pytorch as pl

from minimind.parallel.collectives import all_gather, max_over_ranks
from minimind.runs.folder import COMPLETE, checkpoint_name
from minimind.training.callbacks.metrics import Metrics
from minimind.training.callbacks.run_callback import EachStep
from minimind.training.checkpoint import (
    optimizer_by_name,
    optimizer_by_number,
    random_state,
    restore_random_state,
)
from minimind.training.config import TrainerConfig, is_due
from minimind.training.parts import RunParts
from minimind.training.saver import Saver
from minimind.utils.terminal import say

CLOCK_EVERY_STEPS = 10  # ranks agree on the time so often


class Checkpointing(EachStep):
    """Comes after `Metrics`: a step that validates is saved after its validation, with its figures."""

    def __init__(self, parts: RunParts, cfg: TrainerConfig, metrics: Metrics) -> None:
        self.attach(parts)
        parts.save = self.save
        self.run = parts.run
        self.cfg = cfg
        self.metrics = metrics
        self.saver = Saver(parts.run, cfg)
        self.last_save = time.monotonic()
        self.random_states: list[dict[str, Any]] = []  # by rank
        self.loaded: dict[str, Any] | None = None
        self.told_busy = False

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.saver.step = self.saver.first_step = trainer.global_step
        self.last_save = time.monotonic()
        if trainer.global_rank < len(self.random_states):  # a rank more than before keeps its stream of this start
            restore_random_state(self.random_states[trainer.global_rank])
        best = checkpoint_name(self.parts.best.step)
        if trainer.is_global_zero and (self.run.checkpoints / best / COMPLETE).is_file():
            self.run.update_status(best_checkpoint=best)

    def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        if self.saver.under_way is not None and not self.saver.busy:
            self.saver.report()
        if not self.validates(step) and self._is_due(trainer):
            self._save_if_free(trainer)

    def validates(self, step: int) -> bool:
        """Whether the step is saved only after its validation."""
        return is_due(step, self.cfg.validate_every_steps, self.cfg.max_steps)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.parts.best.step == trainer.global_step:
            self._start(trainer)
        elif self._is_due(trainer):
            self._save_if_free(trainer)
        if trainer.global_step == self.cfg.max_steps:
            self._finish("The run is at its end, but not safe")

    def save(self, trainer: pl.Trainer) -> None:
        """Saves now, between two optimizer steps, and waits until it is on the disk.

        Raises:
            RunFailed: it could not be saved.
        """
        self._start(trainer)
        self._finish("Stopped without a checkpoint of this step")

    def _is_due(self, trainer: pl.Trainer) -> bool:
        return is_due(trainer.global_step, self.cfg.checkpoint_every_steps, self.cfg.max_steps) or self._minutes_are_up(
            trainer
        )

    def _minutes_are_up(self, trainer: pl.Trainer) -> bool:
        if self.cfg.checkpoint_every_minutes is None:
            return False
        up = time.monotonic() - self.last_save >= 60 * self.cfg.checkpoint_every_minutes
        if trainer.world_size > 1 and trainer.global_step % CLOCK_EVERY_STEPS:
            return False
        return bool(max_over_ranks(int(up)))

    def _save_if_free(self, trainer: pl.Trainer) -> None:
        """A disk slower than the saves are frequent costs checkpoints, not training time; none is queued."""
        step = trainer.global_step
        for_good = self.cfg.keep_every_steps and step % self.cfg.keep_every_steps == 0
        busy = max_over_ranks(int(self.saver.busy))  # only the first rank knows, and all take part in a save
        if not busy or for_good or step == self.cfg.max_steps:
            self._start(trainer)
        elif trainer.is_global_zero and not self.told_busy:
            self.told_busy = True
            say(
                f"\nStep {step} is not saved: the disk is still busy with {checkpoint_name(self.saver.step)}. "
                "Others will be left out like this; trainer.checkpoint_every_steps is too small for this disk.",
                file=sys.stderr,
            )  # fmt: skip

    def _start(self, trainer: pl.Trainer) -> None:
        step = trainer.global_step
        if step == self.saver.step:
            return  # saved already, or being saved
        start = time.perf_counter()
        # Not trainer.save_checkpoint, which writes before it returns. All ranks take part, one keeps what it gets.
        state = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        if trainer.is_global_zero:
            self.saver.start(step, state, is_best=step == self.parts.best.step, tokens=self.metrics.tokens)
        else:
            self.saver.step = step
        self.last_save = time.monotonic()
        self.parts.clock.stall(time.perf_counter() - start)

    def _finish(self, why: str) -> None:
        start = time.perf_counter()
        self.saver.finish(why)
        self.parts.clock.stall(time.perf_counter() - start)

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self.saver.report()  # nothing writes in the folder once its lock is released

    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.saver.report()

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        optimizer_by_name(checkpoint)
        checkpoint["random_states"] = all_gather(random_state())
        checkpoint["tracker_run_id"] = self.run.status.get("wandb_id")

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.random_states = checkpoint["random_states"]
        self.loaded = checkpoint

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """The optimizer is there only now; Lightning gives it its state from this same dictionary right after."""
        if self.loaded is not None:
            optimizer_by_number(self.loaded, trainer.optimizers[0])
            self.loaded = None
