"""Writes a row of figures at each log point: to metrics.jsonl always, to other loggers too, to the listeners."""

import math
import sys
import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch

from minimind.data.loader import TrainLoader
from minimind.parallel.collectives import largest_over_ranks
from minimind.runs.folder import RunFolder
from minimind.runs.metrics_file import append_rows
from minimind.training.callbacks.each_step import EachStep
from minimind.training.config import TrainerConfig, is_due
from minimind.training.loss_spikes import LossSpikes
from minimind.training.module import TrainingModule
from minimind.utils.errors import RunFailed, UserError
from minimind.utils.ranks import is_main_process
from minimind.utils.terminal import say

Row = dict[str, Any]
SAVED = ("tokens", "elapsed_s", "best", "best_step", "validated_step", "latest", "in_spike")
Sums = dict[str, torch.Tensor]  # what the module has added up since the last log point
Source = Callable[[pl.Trainer, TrainingModule, Sums], Row]


class Metrics(EachStep):
    """A step that logs and validates gives one row with both. Only log points wait for the device."""

    def __init__(
        self, run: RunFolder, cfg: TrainerConfig, *, flops_per_token: float, peak_flops: float | None,
        row_tokens: int, batch_rows: int,
    ) -> None:  # fmt: skip
        self.run = run
        self.cfg = cfg
        self.flops_per_token = flops_per_token
        self.peak_flops = peak_flops
        self.row_tokens = row_tokens  # places for tokens in one optimizer step, real or padding
        self.batch_rows = batch_rows  # windows in one optimizer step
        self.tokens = 0
        self.elapsed_s = 0.0
        self.listeners: list[Callable[[Row], None]] = []
        self.sources: list[Source] = []  # of more figures for a log point; called on every rank
        self.checkpoint_stall_s = 0.0  # set by whoever saves, since the last row
        self.pending: Row = {}
        self.unwritten: list[Row] = []  # for want of room on the disk
        self.best: float | None = None
        self.best_step = -1
        self.validated_step = -1
        self.latest: Row = {}
        self.spikes = LossSpikes()
        self.in_spike = False
        self.bad_in_a_row = 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        super().on_train_start(trainer, module)
        self.mark = time.perf_counter()
        self.waited = _waited(trainer)
        if largest_over_ranks(int(sum(trainer.num_val_batches) == 0)):  # Lightning would leave its validation out
            raise UserError(
                f"The held-out text must have a window for each of the {trainer.world_size} processes, but has fewer; "
                "use fewer processes, a shorter data.sequence_length or more held-out text."
            )

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
        figures = module.take_validation()
        self.pending = {**self._counts(trainer), **self.pending, **figures}
        self.validated_step = trainer.global_step
        if math.isfinite(figures["val/loss"]) and (self.best is None or figures["val/loss"] < self.best):
            self.best, self.best_step = figures["val/loss"], trainer.global_step
        self._write(trainer)
        self.pause(time.perf_counter() - self.validation_start)

    def pause(self, seconds: float) -> None:
        """Seconds since the last row that were neither training nor waiting for data."""
        self.mark = getattr(self, "mark", time.perf_counter()) + seconds

    def _train_row(self, trainer: pl.Trainer, module: TrainingModule) -> Row:
        sums = module.window.take()
        steps, tokens = sums["steps"].item(), int(sums["tokens"].item())
        now = time.perf_counter()
        span, self.mark = now - self.mark, now
        waited, self.waited = _waited(trainer) - self.waited, _waited(trainer)
        self.tokens += tokens
        self.elapsed_s += span
        rate = tokens / span
        row = {
            **self._counts(trainer),
            **self._health(sums, trainer.global_step),
            "train/lr": trainer.optimizers[0].param_groups[0]["lr"],
            "train/tokens_per_second": rate,
            "train/real_token_fraction": tokens / (steps * self.row_tokens),
            "train/data_wait_fraction": waited / span,
            "train/checkpoint_stall_s": self.checkpoint_stall_s,
        }
        if self.peak_flops:
            row["train/mfu"] = rate * self.flops_per_token / self.peak_flops
        if "expert_load" in sums and "train/loss" in row:
            row.update(expert_figures(sums["expert_load"], sums["balance_loss"] / sums["good_tokens"]))
        if isinstance(loader := trainer.train_dataloader, TrainLoader):
            row.update(loader.figures())
        for source in self.sources:
            row.update(source(trainer, module, sums))
        self.checkpoint_stall_s = 0.0
        self.bad_in_a_row = trainer.global_step - int(module.last_good_step.item())
        return row

    def _health(self, sums: dict[str, torch.Tensor], step: int) -> Row:
        """Loss and gradient norm of the steps that were taken; how many were skipped; how far the loss jumped."""
        row: Row = {}
        steps, skipped = int(sums["steps"].item()), int(sums["skipped"].item())
        if skipped < steps:
            row["train/loss"] = (sums["loss"] / sums["good_tokens"]).item()
            row["train/grad_norm"] = (sums["grad_norm"] / (steps - skipped)).item()
            height = self.spikes.height(row["train/loss"])
            if height is not None:
                row["train/loss_spike"] = height
                if not self.in_spike:
                    _say(
                        f"The loss jumped to {row['train/loss']:.3f} before step {step}, {height:.3f} above its median."
                    )
            self.in_spike = height is not None
        if skipped:
            row["train/skipped_steps"] = skipped
        return row

    def _counts(self, trainer: pl.Trainer) -> Row:
        return {"step": trainer.global_step, "tokens": self.tokens, "elapsed_s": round(self.elapsed_s, 3)}

    def _write(self, trainer: pl.Trainer) -> None:
        row, self.pending = self.pending, {}
        self.latest = {**self.latest, **row}
        if trainer.is_global_zero:
            self.run.require_in_place()
            self._append(row)
            for logger in trainer.loggers:
                logger.log_metrics(row, step=row["step"])
            for listener in self.listeners:
                listener(row)
        self._stop_if_lost(trainer.global_step)

    def _append(self, row: Row) -> None:
        """A full disk ends no training: the row waits for the next log point."""
        self.unwritten.append(row)
        try:
            append_rows(self.run.metrics, self.unwritten)
            self.unwritten = []
        except OSError as error:
            if len(self.unwritten) == 1:
                _say(f"{self.run.metrics} cannot be written ({error}); training goes on, and it is tried again.")

    def _stop_if_lost(self, step: int) -> None:
        """Raises: RunFailed, when nothing but bad steps came for too long."""
        bad = self.bad_in_a_row
        if bad < self.cfg.max_bad_steps:
            return
        checkpoints = [folder.name for folder in self.run.complete_checkpoints()]
        first = step - bad
        raise RunFailed(
            f"Stopped at step {step}: loss or gradient was not finite in {bad} steps in a row "
            f"(trainer.max_bad_steps is {self.cfg.max_bad_steps}), from step {first + 1} on, "
            f"which is row {first * self.batch_rows} of the data order. The last good checkpoint is "
            f"{checkpoints[-1] if checkpoints else 'none'}. Look at that data, or try a lower optim.lr or "
            "trainer.gradient_clip; a larger trainer.max_bad_steps goes on from the checkpoint."
        )

    def state_dict(self) -> dict[str, Any]:
        saved = {name: getattr(self, name) for name in SAVED}
        return {**saved, "losses": list(self.spikes.losses)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in SAVED:
            setattr(self, name, state[name])
        self.spikes.losses.extend(state["losses"])


def metrics_of(trainer: pl.Trainer) -> Metrics:
    """Every run has one."""
    (metrics,) = (callback for callback in trainer.callbacks if isinstance(callback, Metrics))  # type: ignore[attr-defined]
    return metrics


def expert_figures(load: torch.Tensor, balance_loss: torch.Tensor) -> Row:
    """What the load (layers, E) of a mixture says: busiest expert ÷ mean (worst layer), and how many got nothing."""
    return {
        "moe/balance_loss": balance_loss.item(),
        "moe/max_load": (load.amax(dim=1) / load.mean(dim=1).clamp(min=1)).max().item(),
        "moe/dead_experts": int((load == 0).sum().item()),
    }


def _waited(trainer: pl.Trainer) -> float:
    """Seconds the loop has waited for its loader."""
    return getattr(trainer.train_dataloader, "waited_s", 0.0)


def _say(message: str) -> None:
    if is_main_process():
        say(f"\n{message}", file=sys.stderr)
