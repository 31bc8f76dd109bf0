"""Logs how evenly each MoE layer uses its experts; `Metrics` logs one value over all layers."""

from collections.abc import Mapping

import lightning.pytorch as pl
from torch import Tensor

from minimind.training.callbacks.run_callback import RunCallback
from minimind.training.parts import Row, RunParts


class MoeLoad(RunCallback):
    def attach(self, parts: RunParts) -> None:
        parts.writer.sources.append(self.metrics)

    def metrics(self, trainer: pl.Trainer, module: pl.LightningModule, sums: Mapping[str, Tensor]) -> Row:
        load = sums["moe/load"]  # (layers, E) tokens since the last log point
        busiest = (load.amax(dim=1) / load.mean(dim=1).clamp(min=1)).tolist()
        unused = (load == 0).sum(dim=1).tolist()
        row: Row = {}
        for layer, (most, none) in enumerate(zip(busiest, unused, strict=True)):
            row[f"moe/layer_{layer:02d}/max_load"] = most
            row[f"moe/layer_{layer:02d}/dead_experts"] = none
        return row
