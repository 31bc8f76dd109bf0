"""How much memory the run has needed so far, at each log point."""

from collections.abc import Mapping

import lightning.pytorch as pl
from torch import Tensor

from minimind.training.callbacks.run_callback import RunCallback
from minimind.training.metrics_writer import Row
from minimind.training.parts import RunParts
from minimind.utils.hardware import peak_memory


class Memory(RunCallback):
    """Peaks since the process started: of the main process on the host, of torch's tensors on the device."""

    def attach(self, parts: RunParts) -> None:
        parts.writer.sources.append(self.metrics)

    def metrics(self, trainer: pl.Trainer, module: pl.LightningModule, sums: Mapping[str, Tensor]) -> Row:
        return dict(peak_memory(module.device))
