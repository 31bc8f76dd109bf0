"""How evenly each layer of a mixture uses its experts, where the figures of `Metrics` say it for the worst one."""

import lightning.pytorch as pl

from minimind.training.callbacks.each_step import RunCallback
from minimind.training.callbacks.metrics import Row, Sums, metrics_of


class MoeLoad(RunCallback):
    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        metrics_of(trainer).sources.append(self.figures)

    def figures(self, trainer: pl.Trainer, module: pl.LightningModule, sums: Sums) -> Row:
        load = sums["expert_load"]  # (layers, E) tokens since the last log point
        busiest = (load.amax(dim=1) / load.mean(dim=1).clamp(min=1)).tolist()
        unused = (load == 0).sum(dim=1).tolist()
        row: Row = {}
        for layer, (most, none) in enumerate(zip(busiest, unused, strict=True)):
            row[f"moe/layer_{layer:02d}/max_load"] = most
            row[f"moe/layer_{layer:02d}/dead_experts"] = none
        return row
