"""How much memory the run has needed so far, at each log point."""

import resource
import sys

import lightning.pytorch as pl
import torch

from minimind.training.callbacks.metrics import Row, Sums, metrics_of

MIB = 2**20
UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes


class Memory(pl.Callback):
    """Peaks since the process started: of the main process on the host, of torch's tensors on the device."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        metrics_of(trainer).sources.append(self.figures)

    def figures(self, trainer: pl.Trainer, module: pl.LightningModule, sums: Sums) -> Row:
        row = {"memory/host_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT / MIB}
        if module.device.type == "cuda":
            row["memory/device_peak_mib"] = torch.cuda.max_memory_allocated(module.device) / MIB
        return row
