"""Ends a run well when it is asked to stop: a flag now, a checkpoint at the next optimizer step, then out."""

import signal
import sys
from types import FrameType
from typing import Any

import lightning.pytorch as pl

from minimind.training.callbacks.checkpointing import Checkpointing

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # the last is SLURM's early warning


class Preempted(Exception):
    """Training stopped where it can go on; the checkpoint is saved."""


class Preemption(pl.Callback):
    """Nothing is saved inside a signal handler. A second SIGINT ends at once."""

    def __init__(self, checkpointing: Checkpointing) -> None:
        self.checkpointing = checkpointing
        self.received: int | None = None
        self.before: dict[int, Any] = {}
        self.last_step = -1

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.last_step = trainer.global_step
        for number in SIGNALS:
            self.before[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is None:
            print(
                f"\n{signal.Signals(number).name}: saving a checkpoint at the next step.", file=sys.stderr, flush=True
            )
        self.received = number

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        step = trainer.global_step
        boundary, self.last_step = step != self.last_step, step
        if boundary and not self.checkpointing.validates(step):
            self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """A step that validates is saved after its validation, which a resumed run would leave out."""
        self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: pl.Trainer) -> None:
        if self.received is not None and trainer.global_step < trainer.max_steps:
            self.checkpointing.save(trainer)
            raise Preempted(signal.Signals(self.received).name)

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}
