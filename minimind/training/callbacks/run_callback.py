"""Base classes of the callbacks, which keep Lightning from calling hooks that they do not use."""

from typing import Any

import lightning.pytorch as pl

from minimind.training.parts import RunParts


class RunCallback(pl.Callback):
    """A callback without per-step hooks: Lightning would call and time each of them in every step, used or not."""

    parts: RunParts

    on_train_batch_start = on_train_batch_end = None  # type: ignore[assignment]
    on_before_zero_grad = on_before_backward = None  # type: ignore[assignment]
    on_after_backward = on_before_optimizer_step = None  # type: ignore[assignment]

    def attach(self, parts: RunParts) -> None:
        """Called once, before training."""
        self.parts = parts


class StepCallback(RunCallback):
    """A callback that is called once per optimizer step."""

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any
    ) -> None:
        self.on_step_end(trainer, module, trainer.global_step)

    def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        """Called after `step` optimizer steps and before a validation that is due then."""
        raise NotImplementedError
