"""Shows a progress bar with the latest metrics; on a terminal only."""

import lightning.pytorch as pl
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from minimind.objectives.config import primaries
from minimind.training.callbacks.run_callback import RunCallback
from minimind.training.parts import Row
from minimind.utils.console import VisibleConsole

SHOWN = (("train/loss", "loss {:.3f}"), ("val/loss", "val loss {:.3f}"), ("train/tokens_per_second", "{:,.0f} tok/s"))


class RichProgress(RunCallback):
    def __init__(self) -> None:
        metrics = TextColumn("{task.description}", markup=False)
        columns = (BarColumn(), MofNCompleteColumn(), metrics, TimeElapsedColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=VisibleConsole(stderr=True))
        self.latest: Row = {}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.is_global_zero and self.bar.console.is_terminal:
            self.task = self.bar.add_task("", total=trainer.max_steps, completed=trainer.global_step)
            self.bar.start()
            self.parts.writer.listeners.append(self.show)

    def show(self, row: Row) -> None:
        self.latest |= row
        primary = [(name, f"{name} {{:.4g}}") for name in primaries() if name != "val/loss"]
        text = " · ".join(form.format(self.latest[name]) for name, form in (*SHOWN, *primary) if name in self.latest)
        self.bar.update(self.task, completed=row["step"], description=text)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.bar.stop()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self.bar.stop()
