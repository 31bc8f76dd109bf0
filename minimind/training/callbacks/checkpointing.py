"""Saves checkpoints by steps, by minutes, at each new best validation and at the end, and loads them on resume."""

import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.plugins import TorchCheckpointIO

from minimind.parallel.collectives import all_gather, max_over_ranks
from minimind.runs.folder import COMPLETE, checkpoint_name
from minimind.training.callbacks.metrics import Metrics
from minimind.training.callbacks.run_callback import StepCallback
from minimind.training.checkpoint import (
    key_optimizer_by_index,
    key_optimizer_by_name,
    load_state,
    random_state,
    restore_random_state,
)
from minimind.training.config import TrainerConfig, is_due
from minimind.training.parts import RunParts
from minimind.training.saver import Saver
from minimind.utils.terminal import say

CLOCK_EVERY_STEPS = 10  # how often ranks agree on the elapsed minutes


class SafeCheckpointIO(TorchCheckpointIO):
    """Makes Lightning load a state like the rest of MiniMind: verified, and without unpickling arbitrary objects.

    The file is not memory-mapped: training changes the optimizer state in place and deletes old checkpoints.
    """

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        return load_state(Path(path).parent, mmap=False)


class Checkpointing(StepCallback):
    """Saves and restores a run. Must follow `Metrics`, so that a step is saved with the metrics of its validation."""

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
        self.warned_busy = False

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.saver.step = self.saver.first_step = trainer.global_step
        self.last_save = time.monotonic()
        if trainer.global_rank < len(self.random_states):  # additional ranks keep their initial states
            restore_random_state(self.random_states[trainer.global_rank])
        best = checkpoint_name(self.parts.best.step)
        if trainer.is_global_zero and (self.run.checkpoints / best / COMPLETE).is_file():
            self.run.update_status(best_checkpoint=best)

    def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        if self.saver.in_progress is not None and not self.saver.busy:
            self.saver.report()
        if not self.validates_at(step) and self._is_due(trainer):
            self._save_unless_busy(trainer)

    def validates_at(self, step: int) -> bool:
        """Whether the step is validated, and therefore saved only after that."""
        return is_due(step, self.cfg.validate_every_steps, self.cfg.max_steps)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.parts.best.step == trainer.global_step:
            self._start(trainer)
        elif self._is_due(trainer):
            self._save_unless_busy(trainer)
        if trainer.global_step == self.cfg.max_steps:
            self._finish("Training ended, but its result was not saved")

    def save(self, trainer: pl.Trainer) -> None:
        """Save now, between two optimizer steps, and wait until the checkpoint is on the disk.

        Raises:
            RunFailed: it could not be saved.
        """
        self._start(trainer)
        self._finish("Stopped without saving this step")

    def _is_due(self, trainer: pl.Trainer) -> bool:
        step_is_due = is_due(trainer.global_step, self.cfg.checkpoint_every_steps, self.cfg.max_steps)
        return step_is_due or self._minutes_have_passed(trainer)

    def _minutes_have_passed(self, trainer: pl.Trainer) -> bool:
        if self.cfg.checkpoint_every_minutes is None:
            return False
        passed = time.monotonic() - self.last_save >= 60 * self.cfg.checkpoint_every_minutes
        if trainer.world_size > 1 and trainer.global_step % CLOCK_EVERY_STEPS:
            return False
        return bool(max_over_ranks(int(passed)))

    def _save_unless_busy(self, trainer: pl.Trainer) -> None:
        """Save unless the disk is busy: a slow disk costs checkpoints rather than training time, and none is queued."""
        step = trainer.global_step
        permanent = self.cfg.keep_every_steps and step % self.cfg.keep_every_steps == 0
        busy = max_over_ranks(int(self.saver.busy))  # only rank 0 saves, but all ranks take part
        if not busy or permanent or step == self.cfg.max_steps:
            self._start(trainer)
        elif trainer.is_global_zero and not self.warned_busy:
            self.warned_busy = True
            say(
                f"\nStep {step} is not saved: the disk is still busy with {checkpoint_name(self.saver.step)}. "
                "Later ones may be skipped, too: trainer.checkpoint_every_steps is too small for this disk.",
                file=sys.stderr,
            )  # fmt: skip

    def _start(self, trainer: pl.Trainer) -> None:
        step = trainer.global_step
        if step == self.saver.step:
            return  # already saved, or in progress
        start = time.perf_counter()
        # Not trainer.save_checkpoint, which writes before it returns. All ranks must take part; rank 0 keeps the state.
        state = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        if trainer.is_global_zero:
            self.saver.start(step, state, is_best=step == self.parts.best.step, tokens=self.metrics.tokens)
        else:
            self.saver.step = step
        self.last_save = time.monotonic()
        self.parts.clock.stall(time.perf_counter() - start)

    def _finish(self, failure: str) -> None:
        start = time.perf_counter()
        self.saver.finish(failure)
        self.parts.clock.stall(time.perf_counter() - start)

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self.saver.report()  # nothing may write to the folder once its lock is released

    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.saver.report()

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        key_optimizer_by_name(checkpoint)
        checkpoint["random_states"] = all_gather(random_state())
        checkpoint["tracker_run_id"] = self.run.status.get("wandb_id")

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.random_states = checkpoint["random_states"]
        self.loaded = checkpoint

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """The optimizer exists only now, and Lightning loads its state from this same dictionary right after."""
        if self.loaded is not None:
            key_optimizer_by_index(self.loaded, trainer.optimizers[0])
            self.loaded = None
