"""Logs peak memory use at each log point."""

from collections.abc import Mapping

import lightning.pytorch as pl
from torch import Tensor

from minimind.training.callbacks.run_callback import RunCallback
from minimind.training.parts import Row, RunParts
from minimind.utils.hardware import peak_memory


class Memory(RunCallback):
    """Peaks since the process started: host memory of the main process, device memory of torch's tensors."""

    def attach(self, parts: RunParts) -> None:
        parts.writer.sources.append(self.metrics)

    def metrics(self, trainer: pl.Trainer, module: pl.LightningModule, sums: Mapping[str, Tensor]) -> Row:
        return dict(peak_memory(module.device))
