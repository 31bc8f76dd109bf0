"""State that the callbacks of a run share: the metrics writer, the best validation result and the clock."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import lightning.pytorch as pl
from torch import Tensor

from minimind.generation.engine import Sampler
from minimind.runs.folder import RunFolder
from minimind.runs.metrics_file import append_rows
from minimind.training.module import TrainingModule
from minimind.utils.terminal import warn

Row = dict[str, Any]
MetricSource = Callable[[pl.Trainer, TrainingModule, Mapping[str, Tensor]], Row]


class MetricsWriter:
    """Writes each row to metrics.jsonl and passes it to the loggers and listeners."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.sources: list[MetricSource] = []  # called on every rank with the module's sums
        self.listeners: list[Callable[[Row], None]] = []  # called on rank 0
        self.latest: Row = {}  # the last value of every metric
        self._unwritten: list[Row] = []  # rows that did not fit on the disk

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
        """Append the row and any pending ones; if the disk is full, keep them for the next log point."""
        self._unwritten.append(row)
        try:
            append_rows(self.run.metrics, self._unwritten)
            self._unwritten = []
        except OSError as error:
            if len(self._unwritten) == 1:
                warn(f"{self.run.metrics} cannot be written ({error}). Training continues; the write will be retried.")

    def state_dict(self) -> dict[str, Any]:
        return {"latest": self.latest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.latest = state["latest"]


class Best:
    """The best value of the objective's primary metric, and the step at which it was reached.

    Args:
        primary: the metric's name and "min" or "max".
    """

    def __init__(self, primary: tuple[str, str]) -> None:
        self.metric, self.mode = primary
        self.value: float | None = None
        self.step = -1

    def is_better(self, value: float, than: float | None, margin: float = 0.0) -> bool:
        """Whether `value` beats `than` by more than the margin. Any finite value beats None."""
        if not math.isfinite(value):
            return False
        return than is None or (value < than - margin if self.mode == "min" else value > than + margin)

    def update(self, step: int, value: float | None) -> None:
        """Record the result of a validation; None if the metric has no value."""
        if value is not None and self.is_better(value, self.value):
            self.value, self.step = value, step

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.value, "best_step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value, self.step = state["best"], state["best_step"]


class Lap(NamedTuple):
    span_s: float  # since the last log point, without pauses
    stall_s: float  # the part of it spent waiting for checkpoints


class Clock:
    """Measures training time, without validation, sampling and other pauses."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0  # total of all laps, including those before a resume
        self._mark = time.perf_counter()
        self._stall_s = 0.0

    def start(self) -> None:
        self._mark = time.perf_counter()

    def pause(self, seconds: float) -> None:
        """Exclude time that was spent neither training nor waiting for data."""
        self._mark += seconds

    def stall(self, seconds: float) -> None:
        self._stall_s += seconds

    def lap(self) -> Lap:
        now = time.perf_counter()
        lap = Lap(now - self._mark, self._stall_s)
        self._mark, self._stall_s = now, 0.0
        self.elapsed_s += lap.span_s
        return lap

    def state_dict(self) -> dict[str, Any]:
        return {"elapsed_s": self.elapsed_s}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.elapsed_s = state["elapsed_s"]


@dataclass
class RunParts:
    run: RunFolder
    writer: MetricsWriter
    best: Best
    sampler: Sampler
    clock: Clock = field(default_factory=Clock)
    save: Callable[[pl.Trainer], None] | None = None  # saves and waits for a checkpoint; set by `Checkpointing`
    stopped_early: str | None = None  # why training ended before its last step
