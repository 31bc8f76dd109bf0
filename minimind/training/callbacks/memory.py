"""How much memory the run has needed so far, at each log point."""

import lightning.pytorch as pl

from minimind.training.callbacks.each_step import RunCallback
from minimind.training.callbacks.metrics import Row, Sums, metrics_of
from minimind.utils.hardware import peak_memory


class Memory(RunCallback):
    """Peaks since the process started: of the main process on the host, of torch's tensors on the device."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        metrics_of(trainer).sources.append(self.figures)

    def figures(self, trainer: pl.Trainer, module: pl.LightningModule, sums: Sums) -> Row:
        return dict(peak_memory(module.device))
