"""What is done once an optimizer step, not once a micro-batch."""

from typing import Any

import lightning.pytorch as pl


class EachStep(pl.Callback):
    last_step = -1

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.last_step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if step != self.last_step:  # else inside an accumulation
            self.last_step = step
            self.on_step_end(trainer, module, step)

    def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        """After `step` optimizer steps, and before a validation that is due then."""
        raise NotImplementedError
