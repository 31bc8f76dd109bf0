"""Stops a run on a signal or deadline: saves a checkpoint at the next suitable step and ends training."""

import signal
import time

import lightning.pytorch as pl

from minimind.parallel.collectives import max_over_ranks
from minimind.runs.stop import StopRequest
from minimind.training.callbacks.checkpointing import Checkpointing
from minimind.training.callbacks.run_callback import StepCallback

OUT_OF_TIME = 1000  # above any signal number
AGREE_EVERY_STEPS = 4  # with several processes, since a signal may reach only one of them


class Preempted(Exception):
    """Training stopped before its end, and its checkpoint is saved.

    Args:
        reason: the signal's name, or the setting that caused the stop.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Preemption(StepCallback):
    """Stops all ranks at the same step, whichever of them received a signal.

    Args:
        deadline: when to stop, in seconds as returned by `time.time`; None for no limit.
    """

    def __init__(self, checkpointing: Checkpointing, stop: StopRequest, deadline: float | None) -> None:
        self.checkpointing = checkpointing
        self.stop = stop
        self.deadline = deadline

    def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        ranks_agree = trainer.world_size == 1 or step % AGREE_EVERY_STEPS == 0
        if ranks_agree and not self.checkpointing.validates_at(step):
            self._stop_if_requested(trainer)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Stop here at a step that validates, because a resumed run would skip its validation."""
        self._stop_if_requested(trainer)

    def _stop_if_requested(self, trainer: pl.Trainer) -> None:
        if trainer.global_step >= trainer.max_steps:
            return
        if request := max_over_ranks(self._request()):
            self.checkpointing.save(trainer)
            raise Preempted("run.max_minutes" if request == OUT_OF_TIME else signal.Signals(request).name)

    def _request(self) -> int:
        """The number of a received signal, OUT_OF_TIME, or 0."""
        if self.deadline is not None and time.time() >= self.deadline:
            return OUT_OF_TIME
        return self.stop.received


def disable_lightning_signals(trainer: pl.Trainer) -> None:
    """Disable Lightning's signal handling, which `Preemption` replaces.

    Its SIGTERM handler runs a collective inside a signal handler and exits with code 0 (Lightning #21406, #21623), its
    SLURM handler saves inside a signal handler, and with several processes each batch costs a broadcast and a wait
    (#21487).
    """
    setattr(trainer._signal_connector, "register_signal_handlers", lambda: None)  # noqa: B010 mypy: cannot assign to a method
    setattr(trainer.fit_loop.epoch_loop, "_broadcast_sigterm_tensor", lambda: None)  # noqa: B010
