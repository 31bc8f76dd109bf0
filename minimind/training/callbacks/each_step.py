"""Callbacks that Lightning calls as seldom as they need it: not at all within a step, or once after it."""

from typing import Any

import lightning.pytorch as pl


class RunCallback(pl.Callback):
    """Has none of the hooks of a step, which Lightning would call, and time, six times a step for each callback."""

    on_train_batch_start = on_train_batch_end = None  # type: ignore[assignment]
    on_before_zero_grad = on_before_backward = None  # type: ignore[assignment]
    on_after_backward = on_before_optimizer_step = None  # type: ignore[assignment]


class EachStep(RunCallback):
    last_step = -1

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.last_step = trainer.global_step

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any
    ) -> None:
        step = trainer.global_step
        if step != self.last_step:  # else inside an accumulation
            self.last_step = step
            self.on_step_end(trainer, module, step)

    def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        """After `step` optimizer steps, and before a validation that is due then."""
        raise NotImplementedError
