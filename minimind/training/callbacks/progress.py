"""Prints progress lines: step, tokens, loss, learning rate, tokens per second, MFU, time left."""

import sys
import time

import lightning.pytorch as pl

from minimind.objectives.config import primaries
from minimind.training.callbacks.run_callback import RunCallback
from minimind.training.parts import Row
from minimind.utils.terminal import is_terminal, say

CLEAR_LINE = "\r\x1b[K"
SECONDS_BETWEEN_LINES = 10.0  # if the output is not a terminal, where lines cannot be overwritten


class Progress(RunCallback):
    def __init__(self) -> None:
        self.on_terminal = is_terminal(sys.stderr)
        self.last_line = 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.max_steps = trainer.max_steps
        self.start, self.first_step = time.perf_counter(), trainer.global_step
        if trainer.is_global_zero:
            self.parts.writer.listeners.append(self.show)

    def show(self, row: Row) -> None:
        has_validation = any(name.startswith("val/") for name in row)
        now = time.perf_counter()
        due = now - self.last_line >= SECONDS_BETWEEN_LINES or row["step"] == self.max_steps
        if not (self.on_terminal or has_validation or due):
            return
        self.last_line = now
        line = self.line(row, now)
        end = "\n" if has_validation or not self.on_terminal else ""
        if self.on_terminal:
            say(CLEAR_LINE, end="", file=sys.stderr, raw=True)
        say(line, end=end, file=sys.stderr)

    def line(self, row: Row, now: float) -> str:
        step = row["step"]
        done = step - self.first_step
        left = (now - self.start) / done * (self.max_steps - step) if done else 0.0
        parts = [f"step {step}/{self.max_steps}", f"{short(row['tokens'])} tokens"]
        if "train/loss" in row:
            parts += [
                f"loss {row['train/loss']:.3f}",
                f"lr {row['train/lr']:.2e}",
                f"{short(row['train/tokens_per_second'])} tok/s",
            ]
        if "train/mfu" in row:
            parts.append(f"MFU {row['train/mfu']:.0%}")
        if "val/loss" in row:
            bits = f", {row['val/bits_per_byte']:.3f} bits/byte" if "val/bits_per_byte" in row else ""
            parts.append(f"val loss {row['val/loss']:.3f}{bits}")
        parts += [f"{name} {row[name]:.4g}" for name in primaries() if name in row and name != "val/loss"]
        parts.append(f"{int(left // 60)}:{int(left % 60):02d} left")
        return " · ".join(parts)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.on_terminal and trainer.is_global_zero:
            say(file=sys.stderr)

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, module)


def short(number: float) -> str:
    """Abbreviate: 1234567 → 1.23M."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{unit}"
    return f"{number:.0f}"
