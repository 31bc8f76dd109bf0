"""Writes a row of metrics at each log point and validation."""

import math
import time
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from minimind.data.loader import TrainLoader
from minimind.training.callbacks.run_callback import StepCallback
from minimind.training.config import TrainerConfig, is_due
from minimind.training.health import Health
from minimind.training.module import COUNT, TrainingModule
from minimind.training.parts import Best, Clock, MetricsWriter, Row, RunParts


class Metrics(StepCallback):
    """Writes one row for a step that both logs and validates. Training waits for the device only at log points."""

    def __init__(
        self, parts: RunParts, cfg: TrainerConfig, *, flops_per_token: float, peak_flops: float | None,
        batch_examples: int,
    ) -> None:  # fmt: skip
        self.attach(parts)
        self.cfg = cfg
        self.health = Health(parts.run, cfg.max_nonfinite_steps, batch_examples)
        self.flops_per_token = flops_per_token
        self.peak_flops = peak_flops
        self.tokens = 0
        self.waited_s = 0.0
        self.pending: Row = {}
        self.validated_step = -1

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.parts.clock.start()
        self.waited_s = _waited(trainer)

    def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        validates = is_due(step, self.cfg.validate_every_steps, self.cfg.max_steps)
        if validates or is_due(step, self.cfg.log_every_steps, self.cfg.max_steps):
            assert isinstance(module, TrainingModule)
            self.pending = self._train_row(trainer, module)
            if not validates:
                self._write(trainer)

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.validation_start = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        if self.parts.best.metric not in module.validation_metrics:
            raise ValueError(
                f"The objective's primary metric is {self.parts.best.metric}, but its validation returned "
                f"{', '.join(module.validation_metrics) or 'nothing'}."
            )
        self.pending = {**self._counts(trainer), **self.pending, **module.validation_metrics}
        self.validated_step = trainer.global_step
        self.parts.best.update(trainer.global_step, self.pending.get(self.parts.best.metric))
        self._write(trainer)
        self.parts.clock.pause(time.perf_counter() - self.validation_start)

    def _train_row(self, trainer: pl.Trainer, module: TrainingModule) -> Row:
        sums = module.window_sums.take()
        steps, tokens = sums["steps"].item(), int(sums["tokens"].item())
        lap = self.parts.clock.lap()
        waited, self.waited_s = _waited(trainer) - self.waited_s, _waited(trainer)
        self.tokens += tokens
        rate = tokens / lap.span_s
        row = {
            **self._counts(trainer),
            **self.health.row(sums, trainer.global_step),
            "train/lr": trainer.optimizers[0].param_groups[0]["lr"],
            "train/tokens_per_second": rate,
            "train/real_token_fraction": tokens / (steps * self.cfg.batch_tokens),
            "train/data_wait_fraction": waited / lap.span_s,
            "train/checkpoint_stall_s": lap.stall_s,
        }
        if self.peak_flops:
            row["train/mfu"] = rate * self.flops_per_token / self.peak_flops
        if "train/loss" in row:
            row.update(averages(sums))
        if isinstance(loader := trainer.train_dataloader, TrainLoader):
            row.update(loader.metrics())
        for source in self.parts.writer.sources:
            row.update(source(trainer, module, sums))
        self.health.update(trainer.global_step, int(module.last_good_step.item()))
        return row

    def _counts(self, trainer: pl.Trainer) -> Row:
        return {"step": trainer.global_step, "tokens": self.tokens, "elapsed_s": round(self.parts.clock.elapsed_s, 3)}

    def _write(self, trainer: pl.Trainer) -> None:
        row, self.pending = self.pending, {}
        self.parts.writer.write(row, trainer)
        self.health.stop_if_nonfinite(trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """Includes the state of the run's other parts that must survive a resume."""
        state = {"tokens": self.tokens, "validated_step": self.validated_step}
        for part in self._stateful_parts():
            state |= part.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.tokens, self.validated_step = state["tokens"], state["validated_step"]
        for part in self._stateful_parts():
            part.load_state_dict(state)

    def _stateful_parts(self) -> tuple[Clock, Best, MetricsWriter, Health]:
        return self.parts.clock, self.parts.best, self.parts.writer, self.health


def averages(sums: Mapping[str, Tensor]) -> Row:
    """The objective's metrics, each its sum ÷ its count unless that is 0, and the load balance of the experts."""
    row: Row = {}
    for count in (name for name in sums if name.endswith(COUNT)):
        name = count.removesuffix(COUNT)
        value = (sums[name] / sums[count]).item() if sums[name].dim() == 0 and sums[count] else math.nan
        if math.isfinite(value):  # JSON has no NaN or infinity
            row[name if "/" in name else f"train/{name}"] = value
    if "moe/load" in sums:
        load = sums["moe/load"]  # (layers, E)
        busiest = load.amax(dim=1) / load.mean(dim=1).clamp(min=1)
        row |= {"moe/max_load": busiest.max().item(), "moe/dead_experts": int((load == 0).sum().item())}
    return row


def _waited(trainer: pl.Trainer) -> float:
    """Seconds that training has waited for the data loader."""
    return getattr(trainer.train_dataloader, "waited_s", 0.0)
