"""The rows of a run: what goes into them, and where they go."""

from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from minimind.runs.folder import RunFolder
from minimind.runs.metrics_file import append_rows
from minimind.training.module import TrainingModule
from minimind.utils.terminal import warn

Row = dict[str, Any]
MetricSource = Callable[[pl.Trainer, TrainingModule, Mapping[str, Tensor]], Row]


class MetricsWriter:
    """To metrics.jsonl always, to the loggers and to the listeners."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.sources: list[MetricSource] = []  # called on every rank, with the module's sums
        self.listeners: list[Callable[[Row], None]] = []  # called on rank 0
        self.latest: Row = {}  # the last value of everything
        self._unwritten: list[Row] = []  # for want of room on the disk

    def write(self, row: Row, trainer: pl.Trainer) -> None:
        self.latest = {**self.latest, **row}
        if not trainer.is_global_zero:
            return
        self.run.require_in_place()
        self._append(row)
        for logger in trainer.loggers:
            logger.log_metrics(row, step=row["step"])
        for listener in self.listeners:
            listener(row)

    def _append(self, row: Row) -> None:
        """A full disk ends no training: the row waits for the next log point."""
        self._unwritten.append(row)
        try:
            append_rows(self.run.metrics, self._unwritten)
            self._unwritten = []
        except OSError as error:
            if len(self._unwritten) == 1:
                warn(f"{self.run.metrics} cannot be written ({error}); training goes on, and it is tried again.")

    def state_dict(self) -> dict[str, Any]:
        return {"latest": self.latest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.latest = state["latest"]
