"""Ends a run well when it is asked to stop: a flag now, a checkpoint at an optimizer step soon, then out."""

import signal
import time

import lightning.pytorch as pl

from minimind.parallel.collectives import max_over_ranks
from minimind.runs.stop import StopRequest
from minimind.training.callbacks.checkpointing import Checkpointing
from minimind.training.callbacks.run_callback import EachStep

OUT_OF_TIME = 1000  # above every signal's number
AGREE_EVERY_STEPS = 4  # with several processes: the least of them may know of a signal that the others did not get


class Preempted(Exception):
    """Training stopped where it can go on; the checkpoint is saved.

    Args:
        reason: the signal's name, or the setting that asked for it.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Preemption(EachStep):
    """Stops at the same step on every rank, whichever of them was asked.

    Args:
        deadline: the time (as of `time.time`) from which on to stop, None for no limit.
    """

    def __init__(self, checkpointing: Checkpointing, stop: StopRequest, deadline: float | None) -> None:
        self.checkpointing = checkpointing
        self.stop = stop
        self.deadline = deadline

    def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        agreeing = trainer.world_size == 1 or step % AGREE_EVERY_STEPS == 0
        if agreeing and not self.checkpointing.validates(step):
            self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """A step that validates is saved after its validation, which a resumed run would leave out."""
        self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: pl.Trainer) -> None:
        if trainer.global_step >= trainer.max_steps:
            return
        if asked := max_over_ranks(self._asked()):
            self.checkpointing.save(trainer)
            raise Preempted("run.max_minutes" if asked == OUT_OF_TIME else signal.Signals(asked).name)

    def _asked(self) -> int:
        if self.deadline is not None and time.time() >= self.deadline:
            return OUT_OF_TIME
        return self.stop.received


def without_lightnings_signals(trainer: pl.Trainer) -> None:
    """Takes out Lightning's signal handling, which ours replaces.

    Its SIGTERM handler is a collective inside a signal handler and ends with exit code 0 (Lightning #21406, #21623),
    its SLURM handler saves inside a signal handler, and each micro-batch of several processes pays for a broadcast
    and a wait (#21487).
    """
    setattr(trainer._signal_connector, "register_signal_handlers", lambda: None)  # noqa: B010 mypy takes it for a method
    setattr(trainer.fit_loop.epoch_loop, "_broadcast_sigterm_tensor", lambda: None)  # noqa: B010
