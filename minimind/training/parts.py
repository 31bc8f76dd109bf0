"""What the callbacks of a run have in common; each part has one owner."""

from collections.abc import Callable
from dataclasses import dataclass, field

import lightning.pytorch as pl

from minimind.generation.engine import Sampler
from minimind.runs.folder import RunFolder
from minimind.training.best import Best
from minimind.training.clock import Clock
from minimind.training.metrics_writer import MetricsWriter


@dataclass
class RunParts:
    run: RunFolder
    writer: MetricsWriter
    best: Best
    sampler: Sampler
    clock: Clock = field(default_factory=Clock)
    save: Callable[[pl.Trainer], None] | None = None  # a checkpoint of this step, waited for; `Checkpointing` sets it
    stopped_early: str | None = None  # why training ended before its last step; whoever ends it sets it
